"""Folding the normalisation of inputs, judged by onnxruntime with its optimizations off."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.passes.base import collect_declines
from onnxslim.passes.fold_normalization import FoldNormalization
from onnxslim.passes.integer_io import IntegerIo
from onnxslim.passes.quantize_static import QuantizeStatic
from tests.models import model, run, with_weights

IMAGE = "g (float[1,4,6,6] x) => (float[1,6,m,n] y) <float[6,4,3,3] w, float[6] c, float[4,1,1] s, float[1,4,1,1] t>"
ROWS = "g (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[1,4] c, float[5] s, float[1,5] t>"

# what is before and what is left
CASES = {
    "mean and deviation": (IMAGE + "{ h = Sub(x, t)  i = Div(h, s)  y = Conv(i, w, c) }", ["Conv"]),
    "without a bias": (IMAGE + "{ h = Mul(x, s)  i = Add(t, h)  y = Conv<pads=[0,0,0,0]>(i, w) }", ["Conv"]),
    "the other way round": (IMAGE + "{ h = Sub(t, x)  y = Conv<auto_pad=\"VALID\">(h, w) }", ["Conv"]),
    "one number for all": (
        "g (float[1,4,6] x) => (float[1,2,4] y) <float[2,4,3] w, float[1] s, float[1] t>"
        "{ h = Sub(x, t)  i = Mul(h, s)  y = Conv(i, w) }",
        ["Conv"],
    ),
    "in groups": (
        "g (float[1,4,6] x) => (float[1,6,4] y) <float[6,2,3] w, float[4,1] s, float[4,1] t>"
        "{ h = Sub(x, t)  i = Div(h, s)  y = Conv<group=2>(i, w) }",
        ["Conv"],
    ),
    "zeros are padded": (
        IMAGE + "{ h = Sub(x, t)  i = Div(h, s)  y = Conv<pads=[1,1,1,1]>(i, w) }",
        ["Sub", "Conv"],
    ),
    "zeros are padded by name": (
        IMAGE + "{ h = Sub(x, t)  i = Div(h, s)  y = Conv<auto_pad=\"SAME_UPPER\">(i, w) }",
        ["Sub", "Conv"],
    ),
    "normalisation over batches": (
        "g (float[2,4,6] x) => (float[2,2,4] y) <float[2,4,3] w, float[4] s, float[4] b, float[4] m, float[4] v>"
        "{ h = BatchNormalization(x, s, b, m, v)  y = Conv(h, w) }",
        ["Conv"],
    ),
    "moved and cast": (
        "g (uint8[1,6,6,4] x) => (float[1,6,4,4] y) <float[6,4,3,3] w, float[4,1,1] s>"
        "{ f = Cast<to=1>(x)  h = Transpose<perm=[0,3,1,2]>(f)  i = Div(h, s)  y = Conv(i, w) }",
        ["Cast", "Transpose", "Conv"],
    ),
    "gemm with all its attributes": (
        ROWS.replace("[5,4] w", "[4,5] w")
        + "{ h = Sub(x, t)  i = Div(h, s)  y = Gemm<alpha=0.5, beta=2.0, transB=1>(i, w, c) }",
        ["Gemm"],
    ),
    "gemm without a bias": (ROWS + "{ h = Add(x, t)  y = Gemm<alpha=0.5>(h, w) }", ["Gemm"]),
}

LEFT_ALONE = {
    "only shifts, and zeros are padded": IMAGE + "{ h = Sub(x, t)  y = Conv<pads=[1,1,1,1]>(h, w) }",
    "shifts last, and zeros are padded": IMAGE
    + "{ h = Mul(x, s)  i = Add(h, t)  y = Conv<pads=[1,1,1,1]>(i, w) }",
    "a matmul has no bias": ROWS + "{ h = Mul(x, s)  y = MatMul(h, w) }",
    "inside the model": IMAGE + "{ r = Exp(x)  h = Mul(r, s)  y = Conv(h, w) }",
    "read elsewhere": "g (float[1,4,6,6] x) => (float[1,6,4,4] y, float[1,4,6,6] z)"
    "<float[6,4,3,3] w, float[4,1,1] s>{ h = Mul(x, s)  y = Conv(h, w)  z = Neg(h) }",
    "an output": "g (float[1,4,6,6] x) => (float[1,6,4,4] y, float[1,4,6,6] h)"
    "<float[6,4,3,3] w, float[4,1,1] s>{ h = Mul(x, s)  y = Conv(h, w) }",
    "grey made coloured": "g (float[1,1,6,6] x) => (float[1,6,4,4] y) <float[6,4,3,3] w, float[4,1,1] s>"
    "{ h = Mul(x, s)  y = Conv(h, w) }",
    "an axis more": "g (float[4,6,6] x) => (float[1,6,4,4] y) <float[6,4,3,3] w, float[1,4,1,1] s>"
    "{ h = Mul(x, s)  y = Conv(h, w) }",
    "along a row": "g (float[1,4,6,6] x) => (float[1,6,4,4] y) <float[6,4,3,3] w, float[6] s>"
    "{ h = Mul(x, s)  y = Conv(h, w) }",
    "transposed": "g (float[5,3] x) => (float[3,4] y) <float[5,4] w, float[1,3] s>"
    "{ h = Mul(x, s)  y = Gemm<transA=1>(h, w) }",
    "one over": IMAGE + "{ h = Div(s, x)  y = Conv(h, w) }",
    "nothing to fold": IMAGE + "{ y = Conv(x, w) }",
}

DECLINED = {
    "other nodes read its weight": "g (float[1,4,3,3] x) => (float[1,6,1,1] y, float[6,4,3,3] z)"
    "<float[6,4,3,3] w, float[4,1,1] s>{ h = Mul(x, s)  y = Conv(h, w)  z = Neg(w) }",
    "not finite": "g (float[1,1,4] x) => (float[1,1,4] y) <float[1,1,1] w, float[1] s = {0}>"
    "{ h = Div(x, s)  y = Conv(h, w) }",
    "digits": "g (float[1,1,4] x) => (float[1,1,4] y) <float[1,1,1] w, float[1] s = {1000}>"
    "{ h = Sub(x, s)  y = Conv(h, w) }",
}


def feed(m: ir.Model) -> dict[str, np.ndarray]:
    [x] = m.graph.inputs
    values = np.random.default_rng(1).uniform(1, 9, x.shape.numpy())
    return {"x": values.astype(x.dtype.numpy())}


@pytest.mark.parametrize("name", CASES)
def test_folds(name: str) -> None:
    text, ops = CASES[name]
    before, after = with_weights(text), with_weights(text)
    assert FoldNormalization()(after).modified
    assert [node.op_type for node in after.graph] == ops
    [a], [b] = run(before, feed(before)), run(after, feed(before))
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * np.abs(a).max() + 1e-6)
    assert not FoldNormalization()(after).modified


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_leaves_alone(name: str) -> None:
    m = with_weights(LEFT_ALONE[name])
    before = ir.to_proto(m).SerializeToString()
    assert not FoldNormalization()(m).modified
    assert ir.to_proto(m).SerializeToString() == before


@pytest.mark.parametrize("reason", DECLINED)
def test_declines_with_a_reason(reason: str) -> None:
    m = with_weights(DECLINED[reason])
    with collect_declines() as log:
        assert not FoldNormalization()(m).modified
    assert len(log.entries) == 1 and reason in log.entries[0].reason


def test_what_enters_a_branch_is_not_an_input_of_the_model() -> None:
    text = """g (bool c, float[1,1,4] x) => (float[1,1,4] y) <float[1,1,1] w = {2}, float[1] s = {3}> {
        h = Mul(x, s)
        y = If(c) <then_branch = t () => (float[1,1,4] a) { a = Conv(h, w) },
                   else_branch = e () => (float[1,1,4] b) { b = Neg(x) }> }"""
    assert not FoldNormalization()(model(text)).modified


@pytest.mark.parametrize("folded", [False, True])
def test_an_input_with_a_mean_per_channel_can_become_an_input_of_integers(folded: bool) -> None:
    m = with_weights(
        "g (float[1,3,8,8] x) => (float[1,4,4,4] y)"
        "<float[4,3,2,2] w, float[4] c, float[3,1,1] t, float[3,1,1] s, float[4,4,1,1] v>"
        "{ h = Sub(x, t)  i = Div(h, s)  k = Conv<strides=[2,2]>(i, w, c)  y = Conv(k, v) }"
    )
    assert not folded or FoldNormalization()(m).modified
    data = np.random.default_rng(0).uniform(0, 1, (4, 3, 8, 8)).astype(np.float32)
    assert QuantizeStatic(calibrate(m, {"x": data}), placement="all")(m).modified
    IntegerIo(outputs=False)(m)
    assert m.graph.inputs[0].dtype == (ir.DataType.UINT8 if folded else ir.DataType.FLOAT)
