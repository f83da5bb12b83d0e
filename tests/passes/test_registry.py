"""Every pass is found by its name, and by its class in ``onnxslim.passes``."""

from __future__ import annotations

import inspect

import pytest

import onnxslim.passes
from onnxslim.errors import OptionError
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.registry import all_passes, make_pass

OWN = [cls for cls in all_passes().values() if cls.__module__.startswith("onnxslim.")]


@pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.name)
def test_a_pass_is_importable_by_its_class_also_for_type_checkers(cls: type) -> None:
    assert getattr(onnxslim.passes, cls.__name__) is cls
    assert f"import {cls.__name__} as {cls.__name__}" in inspect.getsource(onnxslim.passes) or (
        f"    {cls.__name__} as {cls.__name__}," in inspect.getsource(onnxslim.passes)
    )


def test_options_given_as_text_are_read_by_their_type() -> None:
    built = make_pass("pack-weights", {"min_sqnr_db": "30", "exclude": "a*"})
    assert (built.min_sqnr_db, built.exclude) == (30.0, "a*")  # type: ignore[attr-defined]
    for names in ("a,b", ["a", "b"]):
        assert make_pass("pack-weights", {"bits": "4", "only": names}) == PackWeights(bits=4, only=("a", "b"))


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("pack-weight", {}, "pack-weights"),
        ("pack-weights", {"min_sqnr": "3"}, "min_sqnr_db"),
        ("pack-weights", {"min_sqnr_db": "loud"}, ""),
        ("quantize-static", {"method": "minmix"}, ""),
        ("pack-weights", {"bits": "5"}, ""),
        ("pack-weights", {"only": 3}, ""),
        ("quantize-static", {"check": "perhaps"}, ""),
    ],
)
def test_what_does_not_exist_or_fit_is_refused(name: str, options: dict[str, object], hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        make_pass(name, options)
    assert hint in (caught.value.hint or "")
