"""Looking operators up, and operators of other packages."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.ops import registry
from onnxslim.ops.registry import all_specs, is_deterministic, is_random, spec_of
from onnxslim.ops.spec import OpSpec
from tests.models import model


class Entry:
    name, value = "theirs", "theirs:SPECS"

    def __init__(self, content: Any) -> None:
        self.content = content

    def load(self) -> Any:
        return self.content


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that another package has registered something; forgotten after the test."""

    def register(content: Any) -> None:
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry(content)])
        all_specs.cache_clear()

    yield register
    monkeypatch.undo()
    registry.all_specs.cache_clear()


def test_other_packages_add_operators(install: Any) -> None:
    theirs = OpSpec(op_type="Theirs", domain="their.domain")
    install([theirs])
    assert spec_of(ir.node("Theirs", [], domain="their.domain")) is theirs


@pytest.mark.parametrize(
    ("content", "message"),
    [(OpSpec(op_type="Relu"), "Relu is specified twice"), (["Relu"], "no operator specs")],
)
def test_clashes_and_nonsense_are_errors(install: Any, content: Any, message: str) -> None:
    install(content)
    with pytest.raises(OptionError, match=message):
        all_specs()


def test_both_names_of_the_standard_domain() -> None:
    assert spec_of(ir.node("Relu", [], domain="ai.onnx")) is spec_of(ir.node("Relu", []))


def test_randomness_is_found_in_branches_and_functions() -> None:
    built = model(
        '<ir_version: 10, opset_import: ["" : 17, "own" : 1]>'
        "g (bool c, float[2] x) => (y, z, u) {"
        "  y = If<then_branch = a () => (p) { p = RandomUniformLike(x) },"
        "  else_branch = b () => (q) { q = Neg(x) }>(c)"
        "  z = own.noise(x)  u = own.plain(x) }"
        '<domain: "own", opset_import: ["" : 17]> noise (t) => (r) { r = RandomNormalLike(t) }'
        '<domain: "own", opset_import: ["" : 17]> plain (t) => (r) { r = Neg(t) }'
    )
    assert [is_random(node, built) for node in built.graph] == [True, True, False]
    assert [is_deterministic(node, built) for node in built.graph] == [False, False, True]
    unknown = ir.node("Unheard", [], domain="of")
    assert not is_deterministic(unknown) and not is_random(unknown)
