"""Multiply-accumulates against brute force, and what else is counted."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
import onnx.helper
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.cost import cost, summary
from onnxslim.analysis.inspection import Shared, inspect
from onnxslim.analysis.liveness import random_outputs
from onnxslim.analysis.shapes import infer
from onnxslim.model.io import to_proto
from tests.models import model, run

PRODUCTS = {
    "conv": ("g (float[2,6,9,9] x, float[4,3,3,3] w) => (y)"
             "{ y = Conv<group=2, strides=[2,2]>(x, w) }",
             2 * 4 * 4 * 4 * 3 * 9),
    "conv 1d": ("g (float[1,2,10] x, float[5,2,3] w) => (y) { y = Conv<pads=[1,1]>(x, w) }",
                10 * 5 * 2 * 3),
    "depthwise 3d": ("g (float[1,4,5,5,5] x, float[4,1,3,3,3] w) => (y) { y = Conv<group=4>(x, w) }",
                     4 * 27 * 27),
    "transposed": ("g (float[2,4,5,5] x, float[4,3,2,2] w) => (y)"
                   "{ y = ConvTranspose<group=2, strides=[2,2]>(x, w) }", 2 * 4 * 25 * 3 * 4),
    "matmul": ("g (float[2,1,3,4] x, float[5,4,6] z) => (y) { y = MatMul(x, z) }", 2 * 5 * 3 * 4 * 6),
    "vectors": ("g (float[4] x, float[4] z) => (y) { y = MatMul(x, z) }", 4),
    "gemm": ("g (float[3,2] x, float[5,3] z) => (y) { y = Gemm<transA=1, transB=1>(x, z) }", 2 * 3 * 5),
    "einsum": ('g (float[2,3,4] x, float[4,5] z) => (y) { y = Einsum<equation="bij,jk->bik">(x, z) }',
               2 * 3 * 4 * 5),
    "ellipsis": ('g (float[7,3,4] x, float[4,5] z) => (y) { y = Einsum<equation="...ij,jk->...ik">(x, z) }',
                 7 * 60),
    "lstm": ("g (float[5,2,3] x, float[1,16,3] w, float[1,16,4] r) => (y)"
             "{ y = LSTM<hidden_size=4>(x, w, r) }", 5 * 2 * (16 * 3 + 16 * 4)),
    "attention": ("g (float[2,3,5,8] q, float[2,3,7,8] k, float[2,3,7,6] v) => (y)"
                  "{ y = Attention(q, k, v) }",
                  2 * 3 * 5 * 7 * (8 + 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_multiply_accumulates(name: str) -> None:
    text, expected = PRODUCTS[name]
    found = cost(model(text, opset=23))
    assert found.macs == expected and not found.unknown_macs


@pytest.mark.parametrize(("group", "stride", "pad"), [*itertools.product((1, 2), (1, 2), (0, 1))])
def test_convolution_by_counting(group: int, stride: int, pad: int) -> None:
    """With inputs and weights of one and no padding, the sum of the outputs is the number of products."""
    ones = ",".join(["1"] * (6 * 4 // group * 6))
    text = (
        f"g (float[1,4,6,7] x) => (y) <float[6,{4 // group},3,2] w = {{{ones}}}>"
        f"{{ y = Conv<group={group}, strides=[{stride},{stride}], pads=[{pad},{pad},{pad},{pad}]>(x, w) }}"
    )
    built = model(text)
    [result] = run(built, {"x": np.ones((1, 4, 6, 7), np.float32)})
    macs = cost(built).macs
    assert macs == result.size * (4 // group) * 6
    assert macs == result.sum() if not pad else macs > result.sum()


def test_sizes_that_are_not_known_are_named() -> None:
    built = model("g (float[n,k] x, float[k,m] z) => (y) { y = MatMul(x, z) }")
    assert cost(built).unknown_macs == ("MatMul",) and summary(built)["macs"] is None
    assert cost(built, infer(built, {"n": 2, "k": 3, "m": 4})).macs == 24


def test_of_branches_the_dearer_counts() -> None:
    built = model(
        "g (bool c, float[4,4] x) => (y) { y = If<"
        "then_branch = a () => (p) { p = MatMul(x, x) },"
        "else_branch = b () => (r) { q = MatMul(x, x)  r = MatMul(q, x) }>(c) }"
    )
    assert cost(built).macs == 2 * 64


def test_parameters_and_bytes() -> None:
    built = model(
        "g (float[2] x) => (y) <float[2,3] w = {1,2,3,4,5,6}, int64[3] i = {1,2,3}, float s = {1}>"
        "{ y = Add(x, s) }"
    )
    found = cost(built)
    assert found.params == 9
    assert found.bytes_by_dtype == {"float": 28, "int64": 24}
    assert found.bytes == pytest.approx(len(to_proto(built).SerializeToString()), abs=8)
    assert found.ops == {"Add": 1} and found.nodes == 1


def test_random_outputs_are_blamed_on_their_source() -> None:
    built = model(
        "g (bool c, float[2] x) => (y, z, u) { r = RandomNormalLike(x)  y = Add(x, r)  z = Neg(x)  u = If<"
        "then_branch = a () => (p) { p = RandomUniformLike(x) },"
        "else_branch = b () => (q) { q = Neg(x) }>(c) }"
    )
    assert random_outputs(built) == {"y": "RandomNormalLike", "u": "If"} or set(random_outputs(built)) == {
        "y",
        "u",
    }


def test_dropout_is_random_only_in_training() -> None:
    text = "g (float[2] x) => (y) <float r = {0.5}, bool t = {%d}> { y = Dropout(x, r, t) }"
    assert random_outputs(model(text % 0)) == {}
    assert random_outputs(model(text % 1)) == {"y": "Dropout"}


def test_inspection_of_a_quantized_model() -> None:
    found = inspect(
        ir.to_proto(
            model(
                "g (float[1,4] x) => (float[1,4] y) <float s = {0.1}, uint8 z = {3}, float[4,4] w = {"
                + ",".join("1" * 16)
                + "}>"
                "{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
                "  m = MatMul(d, w)  n = MatMul(m, w)  y = nobody.Knows(n) }",
                nobody=1,
            )
        )
    )
    assert found.quantization == "qdq"
    assert found.shared_weights == (Shared("w", ("MatMul", "MatMul"), 64, 64),)
    assert found.unknown_ops == {"Knows": 1}
    assert found.heaviest == (("MatMul", "MatMul", 32),)
    assert found.to_dict()["inputs"][0] == {"name": "x", "dtype": "float", "shape": (1, 4)}


def test_weights_are_never_read() -> None:
    """A declared terabyte costs nothing."""
    weight = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [1 << 20, 1 << 18])
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="big")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1 << 20])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x, weight], [y]))
    assert cost(ir.from_proto(proto)).macs == math.prod((1 << 20, 1 << 18))
