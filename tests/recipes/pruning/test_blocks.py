"""Residual blocks: which there are, what is left without them, and which go first."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.blocks import find_blocks
from onnxslim.errors import BudgetError
from onnxslim.passes.base import collect_declines
from onnxslim.passes.skip_blocks import SkipBlocks
from onnxslim.recipes.pruning.blocks import rank_blocks, skip_until, skipped
from onnxslim.recipes.pruning.widths import macs_for
from onnxslim.runtime.client import open_worker
from tests.models import model as parse
from tests.models import run


def chain() -> ir.Model:
    """x -> +0.01 x w -> +x w -> +0.1 x w, each a block; and a sum of two that are no block."""
    random = np.random.default_rng(0)
    text = """g (float[3,4] x, float[3,4] z) => (float[3,4] y)
        <float[4,4] u = {%s}, float[4,4] v = {%s}, float[4,4] w = {%s}>
        { s = Add(x, z)  a = MatMul(s, u)  b = Add(a, s)  c = MatMul(b, v)  d = Add(b, c)
          e = MatMul(d, w)  f = Relu(e)  y = Add(f, d) }"""
    weights = (scale * random.normal(size=16) for scale in (0.01, 1.0, 0.1))
    return parse(text % tuple(", ".join(f"{x:.5f}" for x in w) for w in weights))


def feed(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=(3, 4)).astype(np.float32) for name in "xz"}


def test_blocks_are_sums_with_what_they_are_computed_from() -> None:
    found = [(block.name, block.shortcut.name) for block in find_blocks(chain())]
    assert found == [("b", "s"), ("d", "b"), ("y", "d")]


@pytest.mark.parametrize("gone", [("b",), ("b", "d"), ("d", "y"), ("y",), ("y", "d", "b")])
def test_what_is_left_computes_what_is_left(gone: tuple[str, ...]) -> None:
    model = chain()
    u, v, w = (value.const_value.numpy() for value in model.graph.initializers.values())  # type: ignore[union-attr]
    value = feed()["x"] + feed()["z"]
    value = value if "b" in gone else value + value @ u
    value = value if "d" in gone else value + value @ v
    value = value if "y" in gone else value + np.maximum(value @ w, 0)
    result = skipped(model, gone).model
    np.testing.assert_allclose(run(result, feed())[0], value, rtol=1e-5, atol=1e-5)
    assert [output.name for output in result.graph.outputs] == ["y"]
    assert sum(node.op_type == "MatMul" for node in result.graph) == 3 - len(gone)


def test_the_least_effect_goes_first() -> None:
    model = chain()
    with open_worker() as worker:
        assert rank_blocks(worker, model, ["b", "d", "y"], [feed(1), feed(2)]) == ["b", "y", "d"]


def test_as_many_go_as_the_target_needs() -> None:
    model, full = chain(), 3 * 48
    outcome, gone = skip_until(model, ["b", "y", "d"], lambda m: (macs_for(m, feed()) or 0) <= full / 2)
    assert gone == ["b", "y"] and macs_for(outcome.model, feed()) == 48
    with pytest.raises(BudgetError, match="all 3 residual blocks"):
        skip_until(model, ["b", "y", "d"], lambda m: False)


def test_what_is_no_block_is_declined() -> None:
    model = chain()
    with collect_declines() as log:
        assert not SkipBlocks(outputs=("s", "nothing"))(model).modified
    assert {entry.node for entry in log.entries} == {"s", "nothing"}
    broadcast = parse(
        """g (float[3,4] x) => (float[3,4] y) <int64[2] s = {3, 4}>
        { a = ReduceMax<axes = [0]>(x)  b = Expand(a, s)  y = Add(a, b) }"""
    )
    assert not find_blocks(broadcast)
