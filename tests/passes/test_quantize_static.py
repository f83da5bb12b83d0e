"""Static quantization: what the runtime executes, how far the outputs move, what is left in float."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.model import edit
from onnxslim.passes import _static
from onnxslim.passes.base import collect_declines
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import proto, run


def built(text: str, opset: int = 17, **weights: tuple[int, ...]) -> ir.Model:
    """A model from text whose undefined names are random weights of these shapes."""
    source, rng = proto(text, opset=opset), np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]) or 1)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return ir.from_proto(source)


def feeds(model: ir.Model, count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    value = model.graph.inputs[0]
    assert value.shape is not None
    shape = [dim if isinstance(dim, int) else 2 for dim in value.shape]
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def quantized(model: ir.Model, **options: object) -> tuple[ir.Model, list[str]]:
    """The quantized copy, and the reasons for what was left alone."""
    result = model.clone()
    with collect_declines() as log:
        QuantizeStatic(calibrate(model, feeds(model)), **options)(result)  # type: ignore[arg-type]
    onnx.checker.check_model(ir.to_proto(result))
    return result, [decline.reason for decline in log.entries]


def quality(model: ir.Model, other: ir.Model) -> float:
    """The worst ratio over the outputs, optimizations off, on data that was not calibrated on."""
    pairs = [zip(run(model, feed), run(other, feed), strict=True) for feed in feeds(model, 12)[8:]]
    return min(sqnr_db(a, b) for pair in pairs for a, b in pair)


NET = """g (float[1,32,28,28] x) => (float[1,64,14,14] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1, b1)
    r = Relu(a)
    c = Conv <pads=[1,1,1,1]> (r, w2)
    s = Add(c, r)
    t = Relu(s)
    p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (t)
    y = Conv <pads=[1,1,1,1]> (p, w3, b3)
}"""
WEIGHTS = {"w1": (64, 32, 3, 3), "b1": (64,), "w2": (64, 64, 3, 3), "w3": (64, 64, 3, 3), "b3": (64,)}


@pytest.mark.parametrize("correct_bias", [False, True])
def test_a_residual_network_runs_in_integers(correct_bias: bool) -> None:
    model = built(NET, **WEIGHTS)
    result, _ = quantized(model, correct_bias=correct_bias)
    histogram = executed(result).histogram
    assert histogram["QLinearConv"] == 3 and histogram["QLinearAdd"] == 1
    assert histogram["QuantizeLinear"] == histogram["DequantizeLinear"] == 1
    assert "Conv" not in histogram and "MaxPool" not in histogram
    assert quality(model, result) > 35
    assert [v.name for v in result.graph.outputs] == ["y"]
    names = set(result.graph.initializers)
    assert not {"w1", "b1", "w2", "w3", "b3"} & names, "no float weight may stay behind"
    assert not QuantizeStatic(calibrate(model, feeds(model)))(result).modified


def test_scales_of_biases_are_computed_where_numbers_would_take_more_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = built(NET, **WEIGHTS)
    result, _ = quantized(model)
    monkeypatch.setattr(_static, "_NODE_BYTES", 10**6)
    stored, _ = quantized(model)
    sizes = [len(ir.to_proto(each).SerializeToString()) for each in (result, stored)]
    assert sizes[0] < sizes[1]
    for feed in feeds(model, 2):
        assert np.array_equal(run(result, feed)[0], run(stored, feed)[0])


@pytest.mark.parametrize(
    ("batch", "kernel"), [("64", "QGemm"), ("n", "MatMulIntegerToFloat")], ids=["static", "dynamic"]
)
def test_a_product_with_a_bias_behind_it(batch: str, kernel: str) -> None:
    text = f"g (float[{batch},24,384] x) => (float[{batch},24,512] y) {{ m = MatMul(x, w)  y = Add(m, b) }}"
    model = built(text, w=(384, 512), b=(512,))
    result, _ = quantized(model)
    histogram = executed(result).histogram
    assert histogram[kernel] == 1 and "DequantizeLinear" not in histogram
    assert quality(model, result) > 35


def test_a_matrix_product_with_transposed_weight() -> None:
    model = built(
        "g (float[n,512] x) => (float[n,256] y) { m = Gemm <transB=1> (x, w, b)  y = Relu(m) }",
        w=(256, 512),
        b=(256,),
    )
    result, _ = quantized(model)
    assert executed(result).histogram["QGemm"] == 1
    assert quality(model, result) > 35


def test_shared_weights_are_stored_once() -> None:
    model = built(
        "g (float[64,384] x) => (float[64,384] y) { m = MatMul(x, w)  r = Relu(m)  y = MatMul(r, w) }",
        w=(384, 384),
    )
    result, _ = quantized(model)
    stored = [v.name for v in result.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    histogram = executed(result).histogram
    assert stored.count("w_quantized") == 1 and "MatMul" not in histogram


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        (
            "g (float[1,64,28,28] x) => (float[o,p,q,r] y) { y = Conv <group=64, pads=[1,1,1,1]> (x, w) }",
            {"w": (64, 1, 3, 3)},
            "would not pay",
        ),
        (
            "g (float[1,1,8,8] x) => (float[o,p,q,r] y) { y = Conv (x, w) }",
            {"w": (4, 1, 3, 3)},
            "would not pay",
        ),
        ("g (float[64,64] x) => (float[o,p] y) { t = Neg(x)  y = MatMul(x, t) }", {}, "not constant"),
        (
            "g (float[64,512] x) => (float[o,p] y) { y = Gemm <alpha=0.5> (x, w) }",
            {"w": (512, 512)},
            "alpha=0.5",
        ),
        (
            "g (float[1,64,28,28] x) => (float[o,p,q,r] y) { y = ConvTranspose (x, w) }",
            {"w": (64, 64, 3, 3)},
            "no integer kernel",
        ),
    ],
)
def test_left_in_float(text: str, weights: dict[str, tuple[int, ...]], reason: str) -> None:
    model = built(text, **weights)
    result, reasons = quantized(model)
    assert [n.op_type for n in result.graph] == [n.op_type for n in model.graph]
    assert any(reason in found for found in reasons), reasons


def test_pooling_never_runs_on_integers_between_floats() -> None:
    model = built(
        """g (float[1,32,46,46] x) => (float[o,p,q,r] y) {
            e = Erf(x)
            p = MaxPool <kernel_shape=[3,3], strides=[2,2]> (e)
            y = Conv (p, w) }""",
        w=(16, 32, 1, 1),
    )
    result, _ = quantized(model)
    assert "QLinearConv" not in executed(result).histogram


def test_large_biases_keep_their_value() -> None:
    """A channel of tiny weights beside a large bias: its bias must not saturate int32."""
    source = proto("g (float[64,384] x) => (float[64,256] y) { y = Gemm (x, w, b) }")
    weight = np.full((384, 256), 1e-12, np.float32)
    weight[:, 1:] = 1.0
    bias = np.full(256, 100.0, np.float32)
    for name, array in (("w", weight), ("b", bias)):
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(source)
    result, _ = quantized(model)
    assert "QGemm" in executed(result).histogram
    feed = feeds(model, 9)[8]
    np.testing.assert_allclose(run(result, feed)[0][:, 0], run(model, feed)[0][:, 0], rtol=1e-3)


def test_what_cannot_be_quantized_is_declined_as_a_whole() -> None:
    model = built(NET, **WEIGHTS)
    calibration = calibrate(model, feeds(model))
    old = built(NET, opset=11, **WEIGHTS)
    for candidate, given, reason in [
        (old, calibration, "opset 13"),
        (model.clone(), None, "needs a calibration"),
    ]:
        with collect_declines() as log:
            assert not QuantizeStatic(given)(candidate).modified
        assert reason in log.entries[0].reason
    empty = Calibration(calibration.fingerprint, {})
    with collect_declines() as log:
        assert not QuantizeStatic(empty)(model).modified
    assert {d.reason.partition(" ")[2] for d in log.entries} == {"was not calibrated"}


def test_exclude_by_name() -> None:
    model = built(NET, **WEIGHTS)
    for number, node in enumerate(model.graph):
        node.name = f"node_{number}"
    result, reasons = quantized(model, exclude="node_6, nothing*")
    assert executed(result).histogram["Conv"] == 1 and "excluded by the user" in reasons


def test_outliers_stay_in_float() -> None:
    model = built(
        """g (float[64,384] x) => (float[64,384] y, float[64,384] m)
        { c = Mul(x, s)  m = MatMul(x, w)  y = MatMul(c, w) }""",
        w=(384, 384),
        s=(384,),
    )
    scale = np.full(384, 1.0, np.float32)
    scale[0] = 300.0  # one channel that makes the steps of all others coarse
    edit.replace_initializer(model.graph.initializers["s"], scale)
    everything, _ = quantized(model, check=False)
    careful, reasons = quantized(model, min_sqnr_db=30.0)
    assert executed(everything).histogram["MatMulIntegerToFloat"] == 2
    assert executed(careful).histogram["MatMulIntegerToFloat"] == 1
    assert any("rounding its activations leaves" in reason for reason in reasons)
    assert quality(model, careful) > quality(model, everything)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"exclude": "op:Conv"}, 3),
        ({"exclude": "op:Add"}, 0),
        ({"include": "node_0, op:Gemm"}, 2),
        ({"include": "op:Conv", "exclude": "node_0, node_2"}, 2),
    ],
)
def test_include_and_exclude_by_operator_and_name(options: dict[str, str], left: int) -> None:
    model = built(NET, **WEIGHTS)
    for number, node in enumerate(model.graph):
        node.name = f"node_{number}"
    with collect_declines() as log:
        QuantizeStatic(calibrate(model, feeds(model)), check=False, **options)(model)  # type: ignore[arg-type]
    picked = [entry.node for entry in log.entries if "the user" in entry.reason]
    assert len(picked) == left
    weights = [node.inputs[1].producer() for node in model.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    assert weights.count(None) >= left
