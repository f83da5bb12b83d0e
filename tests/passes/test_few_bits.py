"""Weights of fewer than 8 bits: what is stored, what the runtime makes of it, which weights keep 8."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import collect_declines
from onnxslim.passes.pack_integers import PackIntegers
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import proto, run

NET = """g (float[1,16,14,14] x) => (float[1,40] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1)
    r = Relu(a)
    c = Conv(r, w2)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    h = Gemm <transB=1> (f, w3)
    k = Relu(h)
    y = MatMul(k, w4)
}"""
WEIGHTS = {"w1": (32, 16, 3, 3), "w2": (64, 32, 1, 1), "w3": (128, 64), "w4": (128, 40)}
FOUR = PackWeights(bits=4, block=32)


def built(text: str, opset: int = 17, **weights: tuple[int, ...]) -> ir.Model:
    """A model from text whose undefined names are random weights of these shapes."""
    source, rng = proto(text, opset=opset), np.random.default_rng(0)
    for name, shape in weights.items():
        array = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def packed(model: ir.Model, *passes: PackWeights | PackIntegers) -> ir.Model:
    result = model.clone()
    for one in passes:
        assert one(result).modified
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    for one in passes:
        assert not one(result).modified, "a second time there is nothing to do"
    return result


def image(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(1, 16, 14, 14)).astype(np.float32)}


def unpacked(model: ir.Model, name: str, bits: int, block: int) -> np.ndarray:
    """The weight ``[length, n]`` read out of the stored bytes alone."""
    stored = {key: value.const_value.numpy() for key, value in model.graph.initializers.items()}
    data, parts = stored[f"{name}_q"].ravel(), 8 // bits
    codes = np.concatenate([(data >> (bits * at)) & (2**bits - 1) for at in range(parts)]).astype(np.float32)
    scale = stored[f"{name}_s"].astype(np.float32)[0]
    zero = stored[f"{name}_z"].astype(np.float32)[0] if f"{name}_z" in stored else 2 ** (bits - 1)
    cube = codes.reshape(-1, block, scale.shape[-1])
    return ((cube - zero) * scale).reshape(-1, scale.shape[-1]).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 2])
def test_the_runtime_decodes_the_very_bits_that_are_stored(opset: int, symmetric: bool, bits: int) -> None:
    model = built("g (float[4,64] x) => (float[4,48] y) { y = MatMul(x, w) }", opset, w=(64, 48))
    pack = PackWeights(bits=bits, block=16, symmetric=symmetric, narrow_sqnr_db=0)  # type: ignore[arg-type]
    result = packed(model, pack)
    expected = unpacked(result, "w", bits, 16)
    [weight] = run(with_output(result), {"x": np.zeros((4, 64), np.float32)}, ["w_w"])
    np.testing.assert_array_equal(weight, expected)
    stored = result.graph.initializers["w_q"].const_value
    assert stored is not None and stored.nbytes == 64 * 48 * bits // 8
    for level in ("basic", "all"):
        assert executed(result, optimize=level).histogram == {"MatMul": 1}


def with_output(model: ir.Model) -> onnx.ModelProto:
    message = ir.to_proto(model)
    message.graph.output.append(onnx.helper.make_tensor_value_info("w_w", onnx.TensorProto.FLOAT, None))
    return message


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [0, 32])
def test_the_kernels_are_those_of_the_original(symmetric: bool, block: int) -> None:
    model = built(NET, **WEIGHTS)
    result = packed(model, dataclasses.replace(FOUR, symmetric=symmetric, block=block))
    for level in ("basic", "all"):
        assert executed(result, optimize=level).histogram == executed(model, optimize=level).histogram
    assert serialized_size(result) < 0.22 * serialized_size(model)
    [one], [other] = run(model, image()), run(result, image())
    assert 10 < sqnr_db(one, other) < 40


def test_blocks_of_8_bits() -> None:
    model = built(NET, **WEIGHTS)
    result = packed(model, PackWeights(block=32))
    assert executed(result).histogram == executed(model).histogram
    [one], [other] = run(model, image()), run(result, image())
    assert sqnr_db(one, other) > 40
    with collect_declines() as log:
        assert not PackWeights(block=32, min_sqnr_db=60)(model.clone()).modified
    assert len(log.entries) == len(WEIGHTS)


def test_tied_weights_are_packed_once() -> None:
    text = "g (float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"
    result = packed(built(text, w=(64, 64)), FOUR)
    assert [name for name in result.graph.initializers if name.endswith("_q")] == ["w_q"]


def test_in_branches() -> None:
    model = built(
        """g (bool c, float[64] x) => (float[64] y)
        { y = If (c) <then_branch = t () => (float[64] a) { a = MatMul(x, w) },
                      else_branch = e () => (float[64] b) { d = MatMul(x, v) b = Neg(d) }> }""",
        w=(64, 64),
        v=(64, 64),
    )
    inner = ir.to_proto(model)
    for tensor, attribute in zip(list(inner.graph.initializer), inner.graph.node[0].attribute, strict=True):
        attribute.g.initializer.append(tensor)
    del inner.graph.initializer[:]
    model = ir.from_proto(inner)
    result = packed(model, FOUR)
    assert "BitShift" not in executed(result).histogram
    for c in (True, False):
        feed = {"c": np.array(c), "x": np.random.default_rng(0).normal(size=64).astype(np.float32)}
        assert sqnr_db(run(model, feed)[0], run(result, feed)[0]) > 15


@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_a_large_table_are_gathered_packed(block: int, symmetric: bool, bits: int) -> None:
    model = built("g (int64[2,3] i) => (float[2,3,64] y) { y = Gather(w, i) }", w=(5000, 64))
    pack = PackWeights(bits=bits, block=block or 64, symmetric=symmetric)  # type: ignore[arg-type]
    result = packed(model, pack)
    assert any("w_q" in kernel.inputs for kernel in executed(result).kernels if kernel.op_type == "Gather")
    indices = np.array([[0, 4999, -1], [7, 7, 123]])
    [one], [other] = run(model, {"i": indices}), run(result, {"i": indices})
    assert one.shape == other.shape and sqnr_db(one, other) > (17 if bits == 4 else 40)
    if bits == 4:
        edit.replace_initializer(model.graph.initializers["w"], pack.stored(model)["w"].decode())
        np.testing.assert_array_equal(run(model, {"i": indices})[0], other)


def test_what_keeps_8_bits() -> None:
    model = built(NET, **WEIGHTS)
    with collect_declines() as log:
        result = packed(model, dataclasses.replace(FOUR, narrow_sqnr_db=60))
    assert all("it has 8" in entry.reason for entry in log.entries) and len(log.entries) == 4
    assert [node.op_type for node in result.graph].count("BitShift") == 0
    two = packed(model, dataclasses.replace(FOUR, only=("w1", "w3")))
    assert [node.op_type for node in two.graph].count("BitShift") == 2
    assert set(FOUR.stored(model)) == set(WEIGHTS)
    small = built("g (float[4,8] x) => (float[4,20] y) { y = MatMul(x, w) }", w=(8, 20))
    assert "BitShift" not in {node.op_type for node in packed(small, FOUR).graph}
    odd = built("g (float[4,81] x) => (float[4,81] y) { y = MatMul(x, w) }", w=(81, 81))
    assert "BitShift" not in {node.op_type for node in packed(odd, FOUR).graph}


def test_an_old_operator_set_keeps_8_bits() -> None:
    model = built("g (float[4,64] x) => (float[4,64] y) { y = MatMul(x, w) }", 10, w=(64, 64))
    with collect_declines() as log:
        result = packed(model, FOUR)
    assert "opset 11" in log.entries[0].reason
    assert [node.op_type for node in result.graph] == ["Cast", "Cast", "Mul", "MatMul"]


@pytest.mark.parametrize("options", [{"bits": 3}, {"block": -1}, {"narrow_sqnr_db": -1.0}])
def test_options(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        PackWeights(**options)  # type: ignore[arg-type]


def correlated(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng, mix = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(64, 64))
    return [{"x": (rng.normal(size=(32, 64)) @ mix + 1).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("g (float[n,64] x) => (float[n,96] y) { y = MatMul(x, w) }", (64, 96)),
        ("g (float[n,64] x) => (float[n,96] y) { y = Gemm <transB=1> (x, w) }", (96, 64)),
        (
            """g (float[n,64] x) => (float[n,96,1,1] y) {
                s = Constant <value_ints=[-1,64,1,1]> () i = Reshape(x, s) y = Conv(i, w) }""",
            (96, 64, 1, 1),
        ),
    ],
    ids=["MatMul", "Gemm", "Conv"],
)
def test_with_second_moments_outputs_are_nearer(text: str, shape: tuple[int, ...]) -> None:
    model = built(text, w=shape)
    name = "i" if len(shape) == 4 else "x"
    fit = calibrate(model, correlated(8, 1), tensors=[name], second_moments=[name])
    other = calibrate(model, correlated(8, 2), tensors=[name], second_moments=[name])
    results = [packed(model, FOUR), packed(model, dataclasses.replace(FOUR, inputs=fit, held_out=other))]
    [feed] = correlated(1, 3)
    nearest, gptq = (sqnr_db(run(model, feed)[0], run(result, feed)[0]) for result in results)
    assert gptq > nearest + 1.5
    assert serialized_size(results[1]) == serialized_size(results[0])


def test_moments_of_other_channels_are_not_used() -> None:
    model = built("g (float[32,64] x) => (float[32,96] y) { y = MatMul(x, w) }", w=(64, 96))
    transposed = built("g (float[32,64] x) => (float[64,32] t, float[32,96] y) { y = MatMul(x, w) t = Transpose(x) }", w=(64, 96))
    calibration = calibrate(transposed, correlated(2, 1), tensors=["t"], second_moments=["t"])
    renamed = dataclasses.replace(calibration, states={"x": calibration.states["t"]})
    one, other = packed(model, FOUR), packed(model, dataclasses.replace(FOUR, inputs=renamed))
    assert ir.to_proto(one).SerializeToString() == ir.to_proto(other).SerializeToString()


def quantized() -> ir.Model:
    model = built(NET, **WEIGHTS)
    calibration = calibrate(model, [image(seed) for seed in range(4)])
    QuantizeStatic(calibration)(model)
    return model


@pytest.mark.parametrize("bits", [4, 2])
def test_integer_kernels_stay_integer_kernels(bits: int) -> None:
    model = quantized()
    before = executed(model).histogram
    assert before["QLinearConv"] == 2
    result = packed(model, PackIntegers(bits=bits, narrow_sqnr_db=0))  # type: ignore[arg-type]
    assert executed(result).histogram == before
    names = [name for name in model.graph.initializers if name.startswith("w") and name.endswith("_quantized")]
    kept = {name: result.graph.initializers.get(name) for name in names}
    assert names and not any(kept.values())
    [one], [other] = run(model, image(9)), run(result, image(9))
    assert sqnr_db(one, other) > (12 if bits == 4 else 0)


def test_few_levels_lose_nothing() -> None:
    model = quantized()
    for name, value in list(model.graph.initializers.items()):
        content = value.const_value.numpy()
        if name.startswith("w") and content.dtype == np.int8 and content.ndim > 1:
            edit.replace_initializer(value, np.rint(content / 18).astype(np.int8) * np.int8(18))
    result = packed(model, PackIntegers(narrow_sqnr_db=1000))
    for one, other in zip(run(model, image(5)), run(result, image(5)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_integers_that_are_left_alone() -> None:
    model = quantized()
    with collect_declines() as log:
        assert not PackIntegers(narrow_sqnr_db=60)(model.clone()).modified
    assert len(log.entries) >= 2 and all("below 60" in entry.reason for entry in log.entries)
    first, *others = PackIntegers().stored(model)
    packed(model, PackIntegers(only=(first,)))
    assert others and set(PackIntegers(only=tuple(others)).stored(model)) == set(others)
    for options in ({"bits": 8}, {"block": -1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            PackIntegers(**options)  # type: ignore[arg-type]


def test_weights_of_integer_operators() -> None:
    text = """g (uint8[4,64] x) => (int32[4,48] y, int8[48,64] z) {
        y = MatMulInteger(x, w) z = Transpose(v) }"""
    source, rng = proto(text), np.random.default_rng(0)
    for name in "wv":
        array = rng.integers(-127, 128, (64, 48)).astype(np.int8)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(source)
    result = packed(model, PackIntegers())
    assert "v" in result.graph.initializers and "w" not in result.graph.initializers
    assert "BitShift" not in executed(result).histogram
    feed = {"x": rng.integers(0, 256, (4, 64)).astype(np.uint8)}
    [one, _], [other, _] = run(model, feed), run(result, feed)
    assert sqnr_db(one.astype(float), other.astype(float)) > 15
