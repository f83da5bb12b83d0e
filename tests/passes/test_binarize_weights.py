"""Weights as few signs in a model: what is stored, what each container decodes to, what is left alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OptionError
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import collect_declines
from onnxslim.passes.binarize_weights import BinarizeWeights
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.reconstruct.binary import binarize
from onnxslim.reconstruct.blocks import View
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import bit_equal, proto, run

CONV = "g (float[2,24,6,6] x) => (float[2,19,6,6] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
PRODUCT = "g (float[4,96] x) => (float[4,33] y) { y = MatMul(x, w) }"
LOOKUP = "g (int64[3] i) => (float[3,64] y) { y = Gather(w, i) }"
QUANTIZED = """g (float[1,64] x) => (float[1,48] y) {
    w = DequantizeLinear<axis=1>(q, s)
    y = MatMul(x, w)
}"""
SHAPES = {CONV: (19, 24, 3, 3), PRODUCT: (96, 33)}
X = {CONV: (2, 24, 6, 6), PRODUCT: (4, 96)}


def built(text: str, opset: int = 17, **weights: np.ndarray) -> ir.Model:
    """A model from text whose undefined names are these weights."""
    source = proto(text, opset=opset)
    for name, array in weights.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def binarized(model: ir.Model, **options: object) -> ir.Model:
    result, step = model.clone(), BinarizeWeights(**{"min_sqnr_db": 0.0, **options})  # type: ignore[arg-type]
    assert step(result).modified
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    return result


def content(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def unpacked(model: ir.Model, name: str, bases: int, size: int) -> np.ndarray:
    """Signs ``[bases, size]`` read out of the stored bytes, bit by bit."""
    data = content(model, f"{name}_q").ravel()
    bits = [(int(data[at % len(data)]) >> (at // len(data))) & 1 for at in range(bases * size)]
    return np.where(np.array(bits).reshape(bases, size), 1.0, -1.0).astype(np.float32)


def decoded(model: ir.Model, name: str) -> np.ndarray:
    message = ir.to_proto(model)
    message.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    feed = {value.name: np.zeros([int(d) for d in value.shape], np.float32) for value in model.graph.inputs}
    [weight] = run(message, feed, [name])
    return np.asarray(weight)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21, 24])
@pytest.mark.parametrize("bases", [1, 2, 3, 4])
@pytest.mark.parametrize("text", [CONV, PRODUCT], ids=["conv", "product"])
def test_the_runtime_decodes_the_very_bits_that_are_stored(text: str, bases: int, opset: int) -> None:
    weight = normal(SHAPES[text])
    model = binarized(built(text, opset, w=weight), bases=bases)
    signs = unpacked(model, "w", bases, weight.size).reshape(bases, *weight.shape)
    half = content(model, "w_s").astype(np.float32) / 2
    along = (-1, 1, 1, 1) if text == CONV else (1, -1)
    parts = [sign * scale.reshape(along) for sign, scale in zip(signs, half, strict=True)]
    expected = parts[0]
    for part in parts[1:]:
        expected = expected + part
    assert bit_equal(decoded(model, "w_w"), expected)
    assert sqnr_db(weight, expected) > 4.2 * bases


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("bases", [1, 3])
@pytest.mark.parametrize("text", [CONV, PRODUCT], ids=["conv", "product"])
def test_qdq_holds_signs_that_every_tool_reads(text: str, bases: int, opset: int) -> None:
    weight, x = normal(SHAPES[text]), normal(X[text], 1)
    model = binarized(built(text, opset, w=weight), bases=bases, container="qdq")
    dequantize = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    assert len(dequantize) == bases
    parts = []
    for node in dequantize:
        signs, scale = (content(model, value.name or "") for value in node.inputs[:2] if value is not None)
        assert signs.dtype == np.int8 and set(np.unique(signs)) == {-1, 1}
        along = (-1, 1, 1, 1) if text == CONV else (1, -1)
        assert node.attributes.get_int("axis", 1) == (0 if text == CONV else 1)
        parts.append(signs.astype(np.float32) * scale.reshape(along))
    expected = np.sum(parts, axis=0)
    np.testing.assert_allclose(expected, BinarizeWeights(bases=bases).stored(built(text, opset, w=weight))["w"].decode(), rtol=1e-6)
    [found] = run(model, {"x": x})
    if opset >= 19:  # the reference evaluator has none of the older DequantizeLinear
        [reference] = onnx.reference.ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-4)
    [direct] = run(built(text, opset, w=expected), {"x": x})
    np.testing.assert_allclose(found, direct, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 21])
def test_a_basis_alone_becomes_an_integer_kernel(opset: int) -> None:
    text = """g (float[1,32,8,8] x) => (float[1,48,8,8] y) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        c = Conv<pads=[1,1,1,1]>(d, w)
        p = QuantizeLinear(c, t, z)
        y = DequantizeLinear(p, t, z)
    }"""
    parts = {"s": np.float32(0.02), "t": np.float32(0.5), "z": np.uint8(128), "w": normal((48, 32, 3, 3))}
    model = binarized(built(text, opset, **{name: np.array(v) for name, v in parts.items()}), bases=1, container="qdq")
    assert executed(model).histogram["QLinearConv"] == 1


@pytest.mark.parametrize("text", [CONV, PRODUCT], ids=["conv", "product"])
def test_packed_outputs_are_those_of_the_unpacked_model_bit_by_bit(text: str) -> None:
    source, x = built(text, w=normal(SHAPES[text])), normal(X[text], 1)
    form = BinarizeWeights(bases=2).stored(source)["w"]
    model = binarized(source, bases=2)
    plain = built(text, w=form.decode())
    assert bit_equal(run(model, {"x": x}), run(plain, {"x": x}))
    for level in ("basic", "all"):
        assert executed(model, optimize=level).histogram == executed(plain, optimize=level).histogram
    reference = onnx.reference.ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    np.testing.assert_allclose(reference[0], run(plain, {"x": x})[0], rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(12, 40),
    st.integers(12, 40),
    st.integers(1, 3),
    st.integers(0, 16),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_size_block_and_axis(rows: int, columns: int, bases: int, block: int, gemm: bool, seed: int) -> None:
    weight = normal((columns, rows) if gemm else (rows, columns), seed)
    weight[weight < -1.5] = -0.0
    weight[:1] = 0
    call = "Gemm<transB=1>" if gemm else "MatMul"
    text = f"g (float[2,{rows}] x) => (float[2,{columns}] y) {{ y = {call}(x, w) }}"
    source, x = built(text, 13, w=weight), normal((2, rows), seed + 1)
    step = BinarizeWeights(bases=bases, block=block, min_sqnr_db=0.0)
    known = step.stored(source)
    if not step(source).modified:
        assert not known  # small ones would not become smaller
        return
    onnx.checker.check_model(ir.to_proto(source), full_check=True)
    assert bit_equal(decoded(source, "w_w"), known["w"].decode())
    assert bit_equal(run(source, {"x": x}), run(built(text, 13, w=known["w"].decode()), {"x": x}))


@pytest.mark.parametrize("bases", [1, 2, 3])
def test_a_table_stays_packed_and_rows_are_decoded_when_they_are_looked_up(bases: int) -> None:
    weight = normal((5000, 64))
    model = binarized(built(LOOKUP, w=weight), bases=bases)
    expected = BinarizeWeights(bases=bases, min_sqnr_db=0).stored(built(LOOKUP, w=weight))["w"].decode()
    indices = np.array([7, 4999, 0])
    assert bit_equal(run(model, {"i": indices})[0], expected[indices])
    assert executed(model).histogram["Gather"] > 1, "not folded into a whole table"
    assert not BinarizeWeights(container="qdq")(built(LOOKUP, w=weight)).modified


@pytest.mark.parametrize("bases", [1, 2, 4])
def test_int8_weights_in_front_of_an_integer_kernel_are_packed_too(bases: int) -> None:
    q = np.clip(np.rint(normal((64, 48)) * 40), -127, 127).astype(np.int8)
    source = built(QUANTIZED, q=q, s=np.full(48, 0.01, np.float32))
    form = BinarizeWeights(bases=bases, min_sqnr_db=0).stored(source)["q"]
    model, x = binarized(source, bases=bases), {"x": normal((1, 64), 1)}
    plain = built(QUANTIZED, q=form.decode(), s=np.full(48, 0.01, np.float32))
    assert bit_equal(run(model, x), run(plain, x))
    assert sqnr_db(q.astype(float), form.decode().astype(float)) > 4 * bases


def test_the_file_has_hardly_more_than_its_bits() -> None:
    source = built("g (float[1,768] x) => (float[1,768] y) { y = MatMul(x, w) }", w=normal((768, 768)))
    rest = serialized_size(source) - 4 * 768 * 768
    for bases in (1, 2, 3):
        assert serialized_size(binarized(source, bases=bases)) <= 1.03 * bases * (768 * 768 / 8 + rest) + 2048


def test_moments_of_the_inputs_lower_the_error_of_the_output() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(96, 96))
    feeds = [{"x": (rng.normal(size=(4, 96)) @ mixing).astype(np.float32)} for _ in range(64)]
    source = built(PRODUCT, w=normal((96, 33)))
    moments, others = (
        calibrate(source, part, tensors=["x"], second_moments=["x"]) for part in (feeds[:48], feeds[48:])
    )
    found = []
    for options in ({}, {"inputs": moments, "held_out": others}):
        model = binarized(source, bases=2, **options)
        pairs = [(run(source, feed)[0], run(model, feed)[0]) for feed in feeds[48:]]
        found.append(sqnr_db(*(np.concatenate(side).astype(float) for side in zip(*pairs, strict=True))))
    assert found[1] > found[0] + 2


def test_what_was_found_elsewhere_is_stored_as_it_is() -> None:
    form = binarize(normal((96, 33), 5), View(1, 96, 33), 2)
    model = binarized(built(PRODUCT, w=normal((96, 33))), bases=1, known={"w": form})
    assert bit_equal(decoded(model, "w_w"), form.decode())


def test_what_was_found_for_another_shape_is_not_taken() -> None:
    other = binarize(normal((33, 96), 5), View(1, 33, 96), 2)
    source = built(PRODUCT, w=normal((96, 33)))
    found, own = binarized(source, bases=2, known={"w": other}), binarized(source, bases=2)
    assert bit_equal(decoded(found, "w_w"), decoded(own, "w_w"))


def test_a_constant_of_a_function_is_no_weight_of_that_name() -> None:
    text = """g (float[4,96] x) => (float[4,33] y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 17]> f (x) => (y) { w = Constant() y = MatMul(x, w) }"""
    source = proto(text, local=1)
    tensor = onnx.numpy_helper.from_array(normal((96, 33)))
    source.functions[0].node[0].attribute.append(onnx.helper.make_attribute("value", tensor))
    model, feed = ir.from_proto(source), {"x": normal((4, 96), 7)}
    known = {"w": binarize(normal((96, 33), 5), View(1, 96, 33), 2)}
    found, own = (binarized(model, bases=2, **options) for options in ({"known": known}, {}))
    assert bit_equal(run(found, feed), run(own, feed))


def test_later_passes_leave_the_parts_alone() -> None:
    model = binarized(built(PRODUCT, w=normal((96, 33)) * 1e-9), bases=2)
    for step in (BinarizeWeights(), PackWeights(), HalveWeights()):
        assert not step(model).modified


@pytest.mark.parametrize(
    ("options", "weight", "reason"),
    [
        ({"min_sqnr_db": 90.0}, normal((96, 33)), "below 90"),
        ({"exclude": "w"}, normal((96, 33)), "excluded"),
        ({}, np.full((96, 33), np.nan, np.float32), "not finite"),
        ({"container": "qdq", "block": 32}, normal((96, 33)), "one axis"),
    ],
)
def test_declined(options: dict[str, object], weight: np.ndarray, reason: str) -> None:
    model = built(PRODUCT, w=weight)
    with collect_declines() as log:
        assert not BinarizeWeights(**options)(model).modified  # type: ignore[arg-type]
    assert any(reason in each.reason for each in log.entries)


def test_vectors_and_old_operator_sets_are_left_alone() -> None:
    text = "g (float[4,400] x) => (float[4,400] y) { y = Mul(x, w) }"
    assert not BinarizeWeights()(built(text, w=normal((400,)))).modified
    assert not BinarizeWeights()(built(PRODUCT, 10, w=normal((96, 33)))).modified
    assert not BinarizeWeights(container="qdq")(built(PRODUCT, 12, w=normal((96, 33)))).modified


@pytest.mark.parametrize("options", [{"bases": 0}, {"bases": 5}, {"block": -1}, {"container": "zip"}])
def test_options_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        dataclasses.replace(BinarizeWeights(), **options)  # type: ignore[arg-type]
