"""Dynamic quantization: what it computes, what the runtime makes of it, what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes import quantize_dynamic as module
from onnxslim.passes.base import collect_declines
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import run
from tests.passes.test_quantize_static import built, feeds, quality

Array = np.ndarray[Any, Any]


def quantized(model: ir.Model, **options: Any) -> tuple[ir.Model, list[str]]:
    """The quantized copy, and the reasons for what was left alone."""
    result = model.clone()
    with collect_declines() as log:
        QuantizeDynamic(**options)(result)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    return result, [f"{decline.node}: {decline.reason}" for decline in log.entries]


def expected(x: Array, weight: Array) -> Array:
    """By the standard's text: uint8 over the tensor's range with 0 in it, times int8 per column."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    step = np.float32((high - low) / np.float32(255))
    zero = np.clip(np.rint(-low / step), 0, 255)
    q = np.clip(np.rint(x / step) + zero, 0, 255)
    steps = np.abs(weight).max(axis=0) / np.float32(127)
    integers = (q - zero).astype(np.float64) @ np.clip(np.rint(weight / steps), -127, 127)
    return np.asarray(integers * step * steps)


PLAIN = "g (float[n,24,384] x) => (float[n,24,512] y) { m = MatMul(x, w)  y = Add(m, b) }"


def test_it_computes_what_the_standard_says() -> None:
    model = built(PLAIN, w=(384, 512), b=(512,))
    result, declined = quantized(model)
    weight, bias = (edit.constant_value(model.graph.initializers[name]) for name in "wb")
    assert weight is not None and bias is not None and not declined
    for feed in feeds(model, 2):
        wanted = expected(feed["x"], weight) + bias
        scale = np.abs(wanted).max()
        for found in (run(result, feed)[0], onnx.reference.ReferenceEvaluator(ir.to_proto(result)).run(None, feed)[0]):
            np.testing.assert_allclose(found, wanted, atol=1e-5 * scale)
    assert quality(model, result) > 35


def test_one_kernel_is_made_of_it_and_the_weight_is_stored_in_8_bits() -> None:
    result, _ = quantized(built(PLAIN, w=(384, 512), b=(512,)))
    assert executed(result).histogram == {"DynamicQuantizeMatMul": 1}
    stored = {v.name: v.dtype for v in result.graph.initializers.values()}
    assert stored["w_quantized"] == ir.DataType.INT8 and "w" not in stored
    assert not QuantizeDynamic()(result).modified


def test_products_of_one_input_share_its_quantizer() -> None:
    model = built(
        """g (float[n,16,256] x) => (float[n,16,256] y) {
            q = MatMul(x, w1)  k = MatMul(x, w2)  s = Add(q, k)  y = MatMul(s, w1) }""",
        w1=(256, 256),
        w2=(256, 256),
    )
    result, _ = quantized(model)
    assert executed(result).histogram == {
        "DynamicQuantizeLinear": 1,
        "MatMulIntegerToFloat": 2,
        "Add": 1,
        "DynamicQuantizeMatMul": 1,
    }
    assert sum(v.dtype == ir.DataType.INT8 for v in result.graph.initializers.values()) == 2, "w1 is stored once"
    assert quality(model, result) > 30


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed: int) -> None:
    model = built(
        f"g (float[n,512] x) => (float[n,256] y) {{ m = Gemm <transB={transposed}> (x, w, b)  y = Relu(m) }}",
        w=(256, 512) if transposed else (512, 256),
        b=(256,),
    )
    result, _ = quantized(model)
    assert executed(result).histogram == {"DynamicQuantizeMatMul": 1, "Relu": 1}
    assert quality(model, result) > 35


def test_names_shapes_and_metadata_are_kept() -> None:
    model = built("g (float[8,384] x) => (float[8,512] m, float[8,512] y) { m = MatMul(x, w)  y = Neg(m) }", w=(384, 512))
    next(iter(model.graph)).metadata_props["of"] = "somebody"
    next(iter(model.graph)).name = "layer"
    result, _ = quantized(model)
    assert [value.name for value in result.graph.outputs] == ["m", "y"]
    [product] = [node for node in result.graph if node.op_type == "MatMulInteger"]
    assert (product.name, dict(product.metadata_props)) == ("layer", {"of": "somebody"})
    inner = built("g (float[8,384] x) => (float[8,512] y) { m = MatMul(x, w)  y = Neg(m) }", w=(384, 512))
    assert "m" in {value.name for node in quantized(inner)[0].graph for value in node.outputs}


def test_branches_are_quantized_and_functions_are_not() -> None:
    model = built(
        """g (float[32,256] x, bool c) => (float[32,256] y) {
            y = If(c) <then_branch = t () => (float[32,256] p) { p = MatMul(x, w) },
                       else_branch = f () => (float[32,256] q) { q = MatMul(x, w) }> }""",
        w=(256, 256),
    )
    result, _ = quantized(model)
    assert executed(result).histogram == {"If": 1, "DynamicQuantizeMatMul": 2}
    assert [v.name for v in result.graph.initializers.values()] == ["w_quantized", "w_scale"]
    feed = feeds(model, 1)[0] | {"c": np.array(True)}
    assert sqnr_db(run(model, feed)[0], run(result, feed)[0]) > 35
    function = built(
        """<ir_version: 10, opset_import: ["" : 17, "l" : 1]>
        g (float[32,256] x) => (float[32,256] y) { y = l.f(x, w) }
        <domain: "l", opset_import: ["" : 17]> f (a, k) => (b) { b = MatMul(a, k) }""",
        w=(256, 256),
    )
    assert not QuantizeDynamic()(function).modified


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        ("g (float[4,16] x) => (float[4,16] y) { y = MatMul(x, w) }", {"w": (16, 16)}, "would not pay"),
        (
            "g (float[n,512] x) => (float[o,p] y) { y = Gemm <alpha=0.5> (x, w, b) }",
            {"w": (512, 256), "b": (256,)},
            "alpha",
        ),
        ("g (float[n,8,64] x) => (float[n,8,64] y) { y = MatMul(x, w) }", {"w": (8, 64, 64)}, "rank 3"),
        (
            """g (float[64,512] x, int64[64] i) => (float[64,256] y) {
                g = Gather(w, i)  m = MatMul(x, w)  y = Add(m, g) }""",
            {"w": (512, 256)},
            "stored twice",
        ),
    ],
    ids=["small", "alpha", "rank", "tied"],
)
def test_what_is_left_alone(text: str, weights: dict[str, tuple[int, ...]], reason: str) -> None:
    model = built(text, **weights)
    result, declined = quantized(model)
    assert any(reason in why for why in declined), declined
    assert "MatMulInteger" not in {node.op_type for node in result.graph}


def test_other_machines_old_operator_sets_and_convolutions() -> None:
    model = built(PLAIN, w=(384, 512), b=(512,))
    assert "run time" in quantized(model, target="qnn")[1][0]
    old = built("g (float[8,384] x) => (float[8,512] y) { y = MatMul(x, w) }", opset=10, w=(384, 512))
    assert "opset 11" in quantized(old)[1][0]
    conv = built("g (float[1,64,28,28] x) => (float[o,p,q,r] y) { y = Conv(x, w) }", w=(64, 64, 3, 3))
    assert quantized(conv)[1] == [], "no product, nothing to say"


def test_nodes_are_picked_by_name_or_operator() -> None:
    model = built(PLAIN, w=(384, 512), b=(512,))
    assert quantized(model, exclude="op:MatMul")[1] == ["m: excluded by the user"]
    assert quantized(model, include="other")[1] == ["m: not among what the user included"]
    assert quantized(model, include="m")[1] == []


def test_what_does_not_become_one_kernel_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products of one input by one weight share their scales, which hides the form from the runtime."""
    model = built(
        "g (float[64,384] x) => (float[64,384] y) { a = MatMul(x, w)  b = MatMul(x, v)  y = Sub(a, b) }",
        w=(384, 384),
        v=(384, 384),
    )
    writer = module._Writer._weight
    monkeypatch.setattr(  # the mistake: all products have the scales of the first
        module._Writer,
        "_weight",
        lambda self, source, axis: (writer(self, source, axis)[0], next(iter(self._weights.values()))[1]),
    )
    result, declined = quantized(model)
    assert declined == [f"{name}: the runtime makes no single integer kernel of it" for name in "ab"]
    assert [node.op_type for node in result.graph] == ["MatMul", "MatMul", "Sub"]
    assert quantized(model, check=False)[1] == []


@pytest.mark.parametrize("packing", [PackWeights(), HalveWeights()], ids=lambda packing: packing.name)
def test_scales_are_not_packed(packing: Any) -> None:
    result, _ = quantized(built(PLAIN.replace("512", "2048"), w=(384, 2048), b=(2048,)))
    before = executed(result).histogram
    packing(result)
    assert result.graph.initializers["w_scale"].dtype == ir.DataType.FLOAT
    assert executed(result).histogram == before
