"""The examples in docstrings run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import onnxslim

MODULES = [
    info.name
    for info in pkgutil.walk_packages(onnxslim.__path__, "onnxslim.")
    if not info.ispkg and not info.name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["onnxslim", "onnxslim.cli", *MODULES])
def test_examples_in_docstrings(name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))  # an example that writes, writes here
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_public_functions_have_an_example() -> None:
    for name in onnxslim.__all__:
        value = getattr(onnxslim, name)
        if callable(value) and not isinstance(value, type):
            assert ">>>" in (value.__doc__ or "") or name in NEED_DATA, name


# Their examples would need files, and stand in the README.
NEED_DATA = ("compare", "compress", "load", "prune", "quantize", "run_recipe", "save")
