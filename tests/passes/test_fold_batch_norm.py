"""Folding into weights, judged by onnxruntime with its optimizations off."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.passes.base import collect_declines
from onnxslim.passes.fold_batch_norm import FoldBatchNorm
from tests.models import model, proto, run, with_weights

CASES = {
    "conv + bn": (
        "g (float[2,4,6,6] x) => (float[2,6,4,4] y)"
        "<float[6,4,3,3] w, float[6] s, float[6] b, float[6] m, float[6] v>"
        "{ h = Conv(x, w)  y = BatchNormalization(h, s, b, m, v) }",
        ["Conv"],
    ),
    "conv with bias + bn": (
        "g (float[2,4,6,6] x) => (float[2,6,4,4] y)"
        "<float[6,4,3,3] w, float[6] c, float[6] s, float[6] b, float[6] m, float[6] v>"
        "{ h = Conv(x, w, c)  y = BatchNormalization<epsilon=0.01>(h, s, b, m, v) }",
        ["Conv"],
    ),
    "grouped conv + affine": (
        "g (float[1,4,5] x) => (float[1,6,3] y) <float[6,2,3] w, float[1,6,1] s, float[6,1] t>"
        "{ h = Conv<group=2>(x, w)  i = Mul(h, s)  y = Sub(i, t) }",
        ["Conv"],
    ),
    "transposed conv in groups + bn": (
        "g (float[1,4,5,5] x) => (float[1,6,7,7] y)"
        "<float[4,3,3,3] w, float[6] c, float[6] s, float[6] b, float[6] m, float[6] v>"
        "{ h = ConvTranspose<group=2>(x, w, c)  y = BatchNormalization(h, s, b, m, v) }",
        ["ConvTranspose"],
    ),
    "gemm with all its attributes + bn": (
        "g (float[3,5] x) => (float[3,4] y)"
        "<float[4,5] w, float[1,4] c, float[4] s, float[4] b, float[4] m, float[4] v>"
        "{ h = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, c)  y = BatchNormalization(h, s, b, m, v) }",
        ["Gemm"],
    ),
    "gemm without bias": (
        "g (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[4] s>{ h = Gemm(x, w)  y = Add(s, h) }",
        ["Gemm"],
    ),
    "matmul + bn": (
        "g (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[4] s, float[4] b, float[4] m, float[4] v>"
        "{ h = MatMul(x, w)  y = BatchNormalization(h, s, b, m, v) }",
        ["MatMul", "Add"],
    ),
    "matmul, shift, scale": (
        "g (float[2,3,5] x) => (float[2,3,4] y) <float[5,4] w, float[4] s, float[4] t>"
        "{ h = MatMul(x, w)  i = Add(h, s)  j = Mul(t, i)  y = Relu(j) }",
        ["MatMul", "Add", "Relu"],
    ),
    "constant minus conv": (
        "g (float[1,2,4] x) => (float[1,2,4] y) <float[2,2,1] w, float[1] s>"
        "{ h = Conv(x, w)  y = Sub(s, h) }",
        ["Conv"],
    ),
    "division": (
        "g (float[1,2,4] x) => (float[1,2,4] y) <float[2,2,1] w, float[2,1] s>"
        "{ h = Conv(x, w)  y = Div(h, s) }",
        ["Conv"],
    ),
    "two readers of the result": (
        "g (float[1,2,4] x) => (float[1,2,4] y, float[1,2,4] z) <float[2,2,1] w, float[2,1] s>"
        "{ h = Conv(x, w)  i = Mul(h, s)  y = Relu(i)  z = Neg(i) }",
        ["Conv", "Relu", "Neg"],
    ),
}

LEFT_ALONE = {
    "two readers of the convolution": "g (float[1,2,4] x) => (float[1,2,4] y, float[1,2,4] z)"
    "<float[2,2,1] w, float[2,1] s>{ h = Conv(x, w)  y = Mul(h, s)  z = Neg(h) }",
    "the convolution is an output": "g (float[1,2,4] x) => (float[1,2,4] h, float[1,2,4] y)"
    "<float[2,2,1] w, float[2,1] s>{ h = Conv(x, w)  y = Mul(h, s) }",
    "a constant over space": "g (float[1,2,4] x) => (float[1,2,4] y) <float[2,2,1] w, float[4] s>"
    "{ h = Conv(x, w)  y = Mul(h, s) }",
    "a constant of higher rank": "g (float[1,2,4] x) => (float[1,1,2,4] y) <float[2,2,1] w, float[1,1,1,1] s>"
    "{ h = Conv(x, w)  y = Mul(h, s) }",
    "one over": "g (float[1,2,4] x) => (float[1,2,4] y) <float[2,2,1] w, float[2,1] s>"
    "{ h = Conv(x, w)  y = Div(s, h) }",
    "training": "g (float[1,2,4] x) => (float[1,2,4] y)"
    "<float[2,2,1] w, float[2] s, float[2] b, float[2] m, float[2] v>"
    "{ h = Conv(x, w)  y, rm, rv = BatchNormalization<training_mode=1>(h, s, b, m, v) }",
    "only a shift behind a matmul": "g (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[4] s>"
    "{ h = MatMul(x, w)  y = Add(h, s) }",
    "a matmul whose channels are elsewhere": "g (float[2,4,5] x) => (float[2,4,4] y)"
    "<float[5,4] w, float[4] s, float[4] b, float[4] m, float[4] v>"
    "{ h = MatMul(x, w)  y = BatchNormalization(h, s, b, m, v) }",
    "a weight that is an input": "g (float[1,2,4] x, float[2,2,1] w) => (float[1,2,4] y) <float[2,1] s>"
    "{ h = Conv(x, w)  y = Mul(h, s) }",
}

DECLINED = {
    "shared weight": "g (float[1,2,4] x) => (float[1,2,4] y, float[1,2,4] z) <float[2,2,1] w, float[2,1] s>"
    "{ h = Conv(x, w)  y = Mul(h, s)  z = Conv(x, w) }",
    "float16": "g (float16[1,2,4] x) => (float16[1,2,4] y)"
    "<float16[2,2,1] w = {15360, 15361, 15362, 15363}, float16[2,1] s = {15364, 15365}>"
    "{ h = Conv(x, w)  y = Mul(h, s) }",
    "variance of zero": "g (float[1,2,4] x) => (float[1,2,4] y)"
    "<float[2,2,1] w, float[2] s, float[2] b, float[2] m, float[2] v = {0, 0}>"
    "{ h = Conv(x, w)  y = BatchNormalization<epsilon=0.0>(h, s, b, m, v) }",
}


def feed(m: ir.Model) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        v.name: random.normal(size=v.shape.numpy()).astype(v.dtype.numpy())
        for v in m.graph.inputs
        if not v.is_initializer()
    }


@pytest.mark.parametrize("name", CASES)
def test_folds(name: str) -> None:
    text, ops = CASES[name]
    before, after = with_weights(text), with_weights(text)
    assert FoldBatchNorm()(after).modified
    assert [node.op_type for node in after.graph] == ops
    for a, b in zip(run(before, feed(before)), run(after, feed(before)), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * np.abs(a).max() + 1e-6)
    assert not FoldBatchNorm()(after).modified


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_leaves_alone(name: str) -> None:
    m = with_weights(LEFT_ALONE[name])
    before = ir.to_proto(m).SerializeToString()
    assert not FoldBatchNorm()(m).modified
    assert ir.to_proto(m).SerializeToString() == before


@pytest.mark.parametrize("name", DECLINED)
def test_declines_with_a_reason(name: str) -> None:
    m = with_weights(DECLINED[name])
    with collect_declines() as log:
        assert not FoldBatchNorm()(m).modified
    assert len(log.entries) == 1 and log.entries[0].reason


def test_in_a_branch_the_weight_stays_where_it_was() -> None:
    text = """g (bool c, float[1,1,4] x) => (float[1,1,4] y)
    <float[1,1,1] w = {2}, float[1] s = {3}, float[1] t = {5}> {
        y = If(c) <then_branch = t () => (float[1,1,4] a) { h = Conv(x, w)  i = Mul(h, s)  a = Add(i, t) },
                   else_branch = e () => (float[1,1,4] b) { b = Neg(x) }> }"""
    before, after = model(text), model(text)
    assert FoldBatchNorm()(after).modified
    assert list(after.graph.initializers) == ["w", "s", "t"]
    for condition in (True, False):
        inputs = {"c": np.array(condition), "x": np.arange(4, dtype=np.float32).reshape(1, 1, 4)}
        np.testing.assert_allclose(run(after, inputs)[0], run(before, inputs)[0], rtol=1e-5)


def test_in_a_function() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
    g (float[1,1,4] x) => (float[1,1,4] y) { y = local.f(x) }
    <domain: "local", opset_import: ["" : 17]>
    f (x) => (y) {
        w = Constant<value = float[1,1,1] {2}>()  s = Constant<value = float[1] {3}>()
        h = Conv(x, w)  y = Add(h, s) }"""
    before, after = model(text), model(text)
    assert FoldBatchNorm()(after).modified
    inputs = {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 4)}
    np.testing.assert_allclose(run(after, inputs)[0], run(before, inputs)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("c = Conv(x, w)  n = BatchNormalization(c, s, b, m, v)  y = Exp(n)", "Conv"),
        ("c = MatMul(x, k)  n = Add(c, a)  p = Mul(n, a)  y = Exp(p)", "Add"),
    ],
)
def test_values_keep_the_names_that_they_are_known_by(text: str, folded: str) -> None:
    source = proto(
        f"""g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {{1,2,3,4}}, float[2] s = {{2,3}},
        float[2] b = {{1,2}}, float[2] m = {{0,1}}, float[2] v = {{1,2}}, float[4,4] k = {{1,2,3,4,5,6,7,8,
        9,10,11,12,13,14,15,16}}, float[4] a = {{1,2,3,4}}> {{ {text} }}"""
    )
    before = ir.from_proto(source)
    after = ir.from_proto(source)
    assert FoldBatchNorm()(after).modified
    [last] = [node for node in after.graph if node.op_type == folded]
    name = last.outputs[0].name
    assert name == ("n" if folded == "Conv" else "p")
    for model in (before, after):  # the very value, not only an output made from it
        model.graph.outputs.extend(v for node in model.graph for v in node.outputs if v.name == name)
    feed = {"x": np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)}
    for one, two in zip(run(before, feed), run(after, feed), strict=True):
        assert np.allclose(one, two, rtol=1e-4, atol=1e-5)
