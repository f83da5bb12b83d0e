"""Inferred shapes against those that onnxruntime computes, and models made to make inference explode."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.shapes import infer
from tests.models import model, run

CHAIN = """
g (float[n,3,8,8] x, float[4,3,3,3] w) => (y)
<int64 zero = {0}, int64[1] ax = {0}, int64[2] tail = {4,36}>
{
  c = Conv(x, w)
  s = Shape(c)
  d = Gather(s, zero)
  e = Unsqueeze(d, ax)
  t = Concat<axis=0>(e, tail)
  y = Reshape(c, t)
}
"""


def values(found: ir.Model) -> dict[str, ir.Value]:
    return {value.name or "": value for node in found.graph for value in node.outputs}


def test_computed_shapes_are_followed() -> None:
    built = model(CHAIN)
    before = ir.to_proto(built).SerializeToString()
    shapes, named = infer(built), values(built)
    assert shapes.shape(named["y"]) == ("n", 4, 36)
    assert shapes.shape(named["c"]) == ("n", 4, 6, 6)
    assert shapes.dtype(named["d"]) == ir.DataType.INT64
    assert ir.to_proto(built).SerializeToString() == before  # the model is not touched


def test_sizes_may_be_bound() -> None:
    built = model(CHAIN)
    assert infer(built, {"n": 5}).shape(built.graph.outputs[0]) == (5, 4, 36)
    assert infer(built, batch=2).shape(built.graph.outputs[0]) == (2, 4, 36)


def test_agrees_with_the_runtime() -> None:
    built = model(CHAIN)
    [result] = run(built, {"x": np.zeros((2, 3, 8, 8), np.float32), "w": np.zeros((4, 3, 3, 3), np.float32)})
    assert infer(built, {"n": 2}).shape(built.graph.outputs[0]) == result.shape


def test_claims_of_the_file_are_not_believed() -> None:
    built = model("g (float[2,3] x) => (float[7,7] y) <float[9] h> { h = Neg(x)  y = Exp(h) }")
    shapes, named = infer(built), values(built)
    assert shapes.shape(named["h"]) == shapes.shape(named["y"]) == (2, 3)


def test_subgraphs_are_inferred() -> None:
    built = model(
        "g (bool c, float[2,3] x) => (y) { y = If<"
        "then_branch = a () => (p) { q = Transpose(x)  p = Neg(q) },"
        "else_branch = b () => (r) { q = Relu(x)  r = Transpose(q) }>(c) }"
    )
    shapes, [branching] = infer(built), list(built.graph)
    then, otherwise = (branching.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    assert shapes.shape(then[0].outputs[0]) == (3, 2)  # the branches use one name for different values
    assert shapes.shape(otherwise[0].outputs[0]) == (2, 3)
    assert shapes.shape(built.graph.outputs[0]) == (3, 2)


def test_constants_are_known_without_being_read() -> None:
    built = model("g () => (y) { w = Constant<value = float[2,3] {1,2,3,4,5,6}>()  y = Neg(w) }")
    shapes, named = infer(built), values(built)
    assert (shapes.shape(named["w"]), shapes.dtype(named["w"])) == ((2, 3), ir.DataType.FLOAT)
    assert shapes.shape(named["y"]) == (2, 3)


def test_unknown_operators_leave_the_rest_known() -> None:
    built = model("g (float[2] x) => (y) { h = nobody.Knows(x)  y = Neg(x) }", nobody=1)
    shapes, named = infer(built), values(built)
    assert shapes.shape(named["h"]) is None
    assert shapes.shape(named["y"]) == (2,)


@pytest.mark.parametrize("text", [
    "g (float[2] x) => (y) { y = Reshape(x) }",
    "g (float[2] x) => (y) { y = Concat<axis=9>(x, x) }",
    "g (float[2] x) => (y) <int64[1] s = {-7}> { y = Reshape(x, s) }",
    "g (float[2] x) => (y) { y = MatMul(x, nowhere) }",
])  # fmt: skip
def test_invalid_nodes_do_no_harm(text: str) -> None:
    built = model(text)
    assert infer(built).shape(built.graph.inputs[0]) == (2,)


BIG = "int64[1] big = {500000000}"
BOMBS = {
    "fill": f"g () => (y) <{BIG}>"
    "{ v = ConstantOfShape<value = int64[1] {1}>(big)  y = Concat<axis=0>(v, v) }",
    "range": "g () => (y) <int64 a = {0}, int64 b = {4000000000}, int64 c = {1}>"
    "{ r = Range(a, b, c)  y = Add(r, r) }",
    "tile": f"g (int64[1] x) => (y) <{BIG}> {{ t = Tile(x, big)  y = Mul(t, t) }}",
    "expand": f"g (int64[1] x) => (y) <{BIG}> {{ t = Expand(x, big)  y = Mul(t, t) }}",
    "input": "g (int64[500000000] x) => (y) { y = Add(x, x) }",
    "flattened": "g (float[20000,20000] x) => (y) <int64[1] s = {-1}> { h = Reshape(x, s)  y = Add(h, h) }",
    "computed": "g (float[1,500000000] x) => (y) <int64[1] i = {1}>"
    "{ s = Shape(x)  n = Gather(s, i)  h = Reshape(x, n)  y = Add(h, h) }",
    "rank": "g (float[1] x, int64[500000000] s) => (y) { y = Expand(x, s) }",
    "cut": "g (float[1,500000000] x) => (y) <int64[1] a = {0}> { h = Squeeze(x, a)  y = Add(h, h) }",
}  # fmt: skip


@pytest.mark.parametrize("opset", [8, 13, 21])
def test_long_vectors_are_not_expanded(opset: int) -> None:
    """In a process of its own: peak memory cannot be reset, and grows with the first bomb that goes off."""
    code = (
        "import resource\nfrom tests.analysis.test_shapes import BOMBS\nfrom tests.models import model\n"
        "from onnxslim.analysis.shapes import infer\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for name, text in BOMBS.items():\n"
        f"    infer(model(text, opset={opset}))\n"
        "    assert peak() - before < 100_000, name  # KiB\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
