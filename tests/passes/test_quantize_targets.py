"""What is written for machines that are not here: the types, the biases and the operators of their rules."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.ops.registry import is_dequantize, is_quantize
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.targets.load import load_target
from tests.models import run
from tests.passes.test_quantize_static import NET, WEIGHTS, built, feeds, quality

DEPTHWISE = """g (float[1,32,28,28] x) => (float[1,16,28,28] y) {
    d = Conv <pads=[1,1,1,1], group=32> (x, w1, b1)
    r = Relu(d)
    y = Conv (r, w2) }"""
DEPTHWISE_WEIGHTS = {"w1": (32, 1, 3, 3), "b1": (32,), "w2": (16, 32, 1, 1)}


def quantized(model: ir.Model, target: str, **options: object) -> ir.Model:
    result = model.clone()
    QuantizeStatic(calibrate(model, feeds(model)), target=target, **options)(result)  # type: ignore[arg-type]
    return result


def weighted(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in ("Conv", "Gemm", "MatMul")]


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "qnn", "cpu-arm"])
@pytest.mark.parametrize(
    ("text", "weights"), [(NET, WEIGHTS), (DEPTHWISE, DEPTHWISE_WEIGHTS)], ids=["net", "depthwise"]
)
def test_every_product_is_quantized_as_the_target_wants(
    target: str, text: str, weights: dict[str, tuple[int, ...]]
) -> None:
    model, rules = built(text, **weights), load_target(target)
    result = quantized(model, target)
    assert quality(model, result) > 30
    for node in weighted(result):
        data, weight = node.inputs[0], node.inputs[1]
        assert data is not None and weight is not None
        source, stored = data.producer(), weight.producer()
        assert source is not None and stored is not None
        assert is_dequantize(source) and is_dequantize(stored)
        integers = edit.constant_value(stored.inputs[0])
        assert integers is not None and integers.dtype == np.int8 and integers.min() >= -127
        zero = edit.constant_value(source.inputs[2])
        assert zero is not None and zero.dtype == np.dtype(rules.activation)
        assert rules.activation == "uint8" or zero == 0
        scale = edit.constant_value(stored.inputs[1])
        assert scale is not None and scale.shape == (integers.shape[0],), "one scale per channel"
        if len(node.inputs) > 2:
            bias = node.inputs[2]
            assert bias is not None
            dequantized = bias.producer() is not None and is_dequantize(bias.producer())  # type: ignore[arg-type]
            assert dequantized == rules.integer_bias
            assert dequantized or bias.dtype == ir.DataType.FLOAT


def test_outputs_are_quantized_where_the_rules_say_so() -> None:
    model = built(NET, **WEIGHTS)
    counts = {
        name: sum(map(is_quantize, quantized(model, name).graph))
        for name in ("tensorrt", "openvino", "qnn", "cuda")
    }
    # the inputs of three convolutions; for a whole integer graph the sum, its Relu, the pool and the output too
    assert counts["tensorrt"] == counts["openvino"] == 3
    assert counts["qnn"] > 5 and counts["cuda"] == 0


def test_symmetric_activations_round_trip() -> None:
    """The same values on both sides of 0, against numpy."""
    model = built("g (float[64,64] x) => (float[64,64] y) { y = MatMul(x, w) }", w=(64, 64))
    result = quantized(model, "tensorrt")
    [quantizer] = [node for node in result.graph if is_quantize(node)]
    scale = edit.constant_value(quantizer.inputs[1])
    largest = max(float(np.abs(feed["x"]).max()) for feed in feeds(model))
    assert scale is not None and float(scale) == pytest.approx(largest / 127, rel=1e-2)


def test_a_corrected_bias_stays_a_float() -> None:
    model = built(NET, **WEIGHTS)
    plain, corrected = (quantized(model, "tensorrt", correct_bias=value) for value in (False, True))
    biases = []
    for result in (plain, corrected):
        value = weighted(result)[-1].inputs[2]  # behind a Relu, so that the means are not 0
        assert value is not None and value.dtype == ir.DataType.FLOAT
        biases.append(edit.constant_value(value))
    assert biases[0] is not None and biases[1] is not None
    assert 0 < float(np.abs(biases[0] - biases[1]).max()) < 0.1
    assert quality(model, corrected) > 30


def test_other_machines_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's graph says nothing of another provider, so it decides nothing."""

    def fail(model: object) -> None:
        raise AssertionError("the runtime was asked")

    monkeypatch.setattr("onnxslim.passes.quantize_static.executed", fail)
    model = built(NET, **WEIGHTS)
    assert sum(map(is_quantize, quantized(model, "tensorrt").graph)) == 3
    with pytest.raises(AssertionError, match="was asked"):
        quantized(model, "cpu-x86-vnni")


SIXTEEN = "runtime='r'\nmachine='m'\nprovider='OtherExecutionProvider'\nactivation='uint8'\nweight='int8'\n"
CONV = "[[fusion]]\nop='Conv'\nkernel='Conv2d'\noutput='quantized'\nactivations=['Relu']\n"


def constants(model: ir.Model, op_type: str, index: int) -> list[np.ndarray]:
    """What the nodes of a type have as an input, where it is constant."""
    found = (edit.constant_value(n.inputs[index]) for n in model.graph if n.op_type == op_type)
    return [array for array in found if array is not None]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_types_of_activations_that_the_target_lists(dtype: str, asymmetric: bool, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"{SIXTEEN}activation_types=['int8', 'uint16', 'int16']\n{CONV}", encoding="utf-8")
    model = built(NET, opset=21, **WEIGHTS)
    result = quantized(model, str(file), activations=dtype, asymmetric=asymmetric)
    zeros = constants(result, "QuantizeLinear", 2)
    assert len(zeros) == 5 and {zero.dtype for zero in zeros} == {np.dtype(dtype)}
    low = np.iinfo(dtype).min
    after_relu = [zero for zero in zeros if zero == (0 if dtype[0] == "i" and not asymmetric else low)]
    assert len(after_relu) == (5 if dtype[0] == "i" and not asymmetric else 2), "a Relu's least value is 0"
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    assert quality(model, result) > 30  # the weights have 8 bits


def test_what_the_target_does_not_take_is_refused() -> None:
    model = built(NET, opset=21, **WEIGHTS)
    with pytest.raises(OptionError, match="int16") as error:
        quantized(model, "cpu-x86-vnni", activations="int16")
    assert "int8, uint8" in str(error.value.hint)
    old = built(NET, **WEIGHTS)
    assert not QuantizeStatic(calibrate(old, feeds(old)), target="qnn", activations="uint16")(old).modified


@pytest.mark.parametrize("by", ["target", "option"])
def test_scales_are_powers_of_two(by: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"{SIXTEEN}power_of_two_scales={str(by == 'target').lower()}\n{CONV}", encoding="utf-8")
    model = built(NET, **WEIGHTS)
    result = quantized(model, str(file), power_of_two_scales=by == "option")
    scales = [*constants(result, "QuantizeLinear", 1), *constants(result, "DequantizeLinear", 1)]
    assert len(scales) > 8
    for scale in scales:
        assert (np.frexp(scale)[0] == 0.5).all()
    assert quality(model, result) > 25


@pytest.mark.parametrize("shifts", [False, True])
def test_eight_bit_floats_against_numpy(shifts: bool) -> None:
    """Both sides of a product, rounded to the nearest of all numbers that the type has."""
    model = built("g (float[64,64] x) => (float[64,64] y) { y = MatMul(x, w) }", opset=21, w=(64, 64))
    result = quantized(model, "tensorrt", activations="float8e4m3fn", power_of_two_scales=shifts)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    numbers = np.sort(every[np.isfinite(every)])
    largest = max(float(np.abs(feed["x"]).max()) for feed in feeds(model))
    weight = edit.constant_value(model.graph.initializers["w"])
    assert weight is not None

    def rounded(values: np.ndarray, peak: float) -> np.ndarray:
        scale = np.float32(peak / 448)
        scale = np.float32(2.0 ** np.ceil(np.log2(scale))) if shifts else scale
        steps = np.clip(values / scale, -448, 448).astype(np.float64)
        return numbers[np.abs(steps[..., None] - numbers).argmin(-1)] * float(scale)

    feed = feeds(model)[0]
    expected = rounded(feed["x"], largest) @ rounded(weight, float(np.abs(weight).max()))
    [found] = run(result, feed)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("correct", [False, True])
def test_eight_bit_floats_of_a_network(correct: bool) -> None:
    model = built(NET, opset=21, **WEIGHTS)
    result = quantized(model, "tensorrt", activations="float8e4m3fn", correct_bias=correct)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    assert 24 < quality(model, result) < 40  # 3 bits of mantissa
    for node in weighted(result):
        stored = [value.producer() for value in node.inputs[:2] if value is not None]
        assert all(each is not None and is_dequantize(each) for each in stored)
        assert len(node.inputs) < 3 or node.inputs[2] is None or node.inputs[2].is_initializer()
    old = built(NET, opset=19, **WEIGHTS)
    form = QuantizeStatic(calibrate(old, feeds(old)), target="tensorrt", activations="float8e4m3fn")
    assert not form(old).modified


def test_a_relu_in_front_of_eight_bit_floats_stays() -> None:
    """With a zero point of this type, onnxruntime would take it for part of the conversion."""
    model = built(DEPTHWISE, opset=21, **DEPTHWISE_WEIGHTS)
    result = ir.to_proto(quantized(model, "tensorrt", activations="float8e4m3fn")).SerializeToString()
    [feed] = feeds(model, 1)
    session = onnxruntime.InferenceSession(result, providers=["CPUExecutionProvider"])
    [found], [expected] = session.run(None, feed), run(result, feed)
    assert sqnr_db(expected, found) > 40  # a sum near the middle of two numbers may go to either
