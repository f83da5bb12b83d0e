"""Integer inputs and outputs: the integers that a QDQ model computes with, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.model.encoding import Encoding, encodings
from onnxslim.passes import IntegerIo
from onnxslim.passes.base import collect_declines
from tests.models import bit_equal, proto, run

CONV = """w = DequantizeLinear(wq, ws, wz)  c = Conv(d, w)
    e = QuantizeLinear(c, s2, z2)  y = DequantizeLinear(e, s2, z2)"""
STORED = """<float s = {0.0125}, uint8 z = {100}, float s2 = {0.05}, uint8 z2 = {9}, float s3 = {0.5},
    float mean = {0.1307}, float[1,1,1,1] std = {0.3081}, float[1,3,1,1] per = {0.1, 0.2, 0.3},
    float[1,3,1,1] same = {0.5, 0.5, 0.5}, float[3] many = {0.1, 0.2, 0.3}, uint8[3] zeros = {0, 0, 0},
    int8[2,3,1,1] wq = {1,-2,3,-4,5,-6}, float ws = {0.1}, int8 wz = {0}, float byte = {255.0},
    float zero = {0.0}, float[4] four = {1,1,1,1}>"""
PAIR = "q = QuantizeLinear(n, s, z)  d = DequantizeLinear(q, s, z)"


def graph(front: str, back: str = CONV, x: str = "float[1,3,4,4] x", y: str = "float[1,2,4,4] y") -> str:
    return f"g ({x}) => ({y}) {STORED} {{ {front}  {back} }}"


def converted(text: str, **options: Any) -> tuple[onnx.ModelProto, onnx.ModelProto, str]:
    """The model before and after, and all reasons."""
    source = proto(text)
    model = ir.from_proto(source)
    with collect_declines() as log:
        result = IntegerIo(**options)(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert result.modified == (after.SerializeToString() != ir.to_proto(ir.from_proto(source)).SerializeToString())
    return source, after, "; ".join(entry.reason for entry in log.entries)


def types(values: Any) -> dict[str, str]:
    return {v.name: onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type) for v in values}


def known(model: onnx.ModelProto, side: Any) -> dict[str, Encoding]:
    return encodings({entry.key: entry.value for entry in model.metadata_props}, side)


def real(encoding: Encoding, integers: np.ndarray) -> np.ndarray:
    """By the formula of the specification, apart from the code under test."""
    return (integers.astype(np.float32) - np.float32(encoding.zero_point)) * np.float32(encoding.scale)


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, seed: int = 0) -> None:
    """On integers of the whole range, the outputs are equal in every bit."""
    rng, inputs, outputs = np.random.default_rng(seed), known(after, "input"), known(after, "output")
    integers, floats = {}, {}
    for info in after.graph.input:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if info.name not in inputs:
            integers[info.name] = floats[info.name] = rng.normal(size=shape).astype(dtype)
            continue
        limits = np.iinfo(dtype)
        integers[info.name] = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        floats[info.name] = real(inputs[info.name], integers[info.name])
    for info, one, two in zip(before.graph.output, run(before, floats), run(after, integers), strict=True):
        assert bit_equal(one, real(outputs[info.name], two) if info.name in outputs else two)


def test_input_and_output() -> None:
    before, after, reasons = converted(graph("n = Identity(x)  " + PAIR))
    assert not reasons and types(after.graph.input) == {"x": "UINT8"} and types(after.graph.output) == {"y": "UINT8"}
    assert known(after, "input") == {"x": Encoding(float(np.float32(0.0125)), 100)}
    assert known(after, "output") == {"y": Encoding(float(np.float32(0.05)), 9)}
    assert [node.op_type for node in after.graph.node].count("QuantizeLinear") == 1  # inside, of y itself
    assert_same(before, after)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_one_side_alone(side: str) -> None:
    before, after, _ = converted(graph("n = Identity(x)  " + PAIR), **{side: False})
    kept = after.graph.input if side == "inputs" else after.graph.output
    assert set(types(kept).values()) == {"FLOAT"} and len(after.metadata_props) == 2
    assert_same(before, after)


def test_several_quantizers_of_one_scale_are_one() -> None:
    front = "q = QuantizeLinear(x, s, z)  q2 = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
    back = CONV + "  y2 = DequantizeLinear(q2, s, z)"
    before, after, reasons = converted(graph(front, back, y="float[1,2,4,4] y, float[1,3,4,4] y2"))
    assert not reasons and types(after.graph.output) == {"y": "UINT8", "y2": "UINT8"}
    assert_same(before, after)


def test_moves_go_on_with_integers() -> None:
    front = "n = Transpose<perm = [0,3,1,2]>(x)  " + PAIR
    back = CONV.replace("y =", "v =") + "  y = Transpose<perm = [0,2,3,1]>(v)"
    before, after, reasons = converted(graph(front, back, "float[1,4,4,3] x", "float[1,4,4,2] y"))
    assert not reasons and types(after.graph.input) == {"x": "UINT8"} and types(after.graph.output) == {"y": "UINT8"}
    assert_same(before, after)


@pytest.mark.parametrize(
    ("front", "scale"),
    [
        ("m = Sub(x, mean)  n = Div(m, std)", 0.0125 * 0.3081),
        ("m = Mul(x, std)  n = Add(m, mean)", 0.0125 / 0.3081),
        ("m = Sub(x, same)  n = Div(m, same)", 0.0125 * 0.5),
        ("t = Transpose<perm = [0,1,3,2]>(x)  m = Sub(t, mean)  n = Div(m, std)", 0.0125 * 0.3081),
    ],
)
def test_normalisation_goes_into_the_scale(front: str, scale: float) -> None:
    before, after, reasons = converted(graph(f"{front}  {PAIR}"))
    found = known(after, "input")["x"]
    assert not reasons and np.isclose(found.scale, scale, rtol=1e-5)
    assert not {"Sub", "Div", "Mul", "Add"} & {node.op_type for node in after.graph.node}
    assert_same(before, after)


def test_integer_images_lose_what_only_undoes_itself() -> None:
    # 0..255 -> 0..1 -> quantized by 1/255: the bytes themselves
    stored = STORED.replace("s = {0.0125}, uint8 z = {100}", f"s = {{{1 / 255:.9g}}}, uint8 z = {{0}}")
    text = f"g (uint8[1,3,4,4] x) => (float[1,2,4,4] y) {stored} {{ f = Cast<to = 1>(x)  n = Div(f, byte)  {PAIR}  {CONV} }}"
    before, after, reasons = converted(text)
    assert not reasons and not {"Cast", "Div"} & {node.op_type for node in after.graph.node}
    assert types(after.graph.input) == {"x": "UINT8"}
    image = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4) * 5
    [one], [two] = run(before, {"x": image}), run(after, {"x": image})
    assert bit_equal(one, real(known(after, "output")["y"], two))


def test_images_whose_bytes_are_not_the_integers_stay() -> None:
    text = graph(f"f = Cast<to = 1>(x)  n = Div(f, byte)  {PAIR}", x="uint8[1,3,4,4] x")
    _, after, reasons = converted(text)
    assert "other integers than those that come in" in reasons and "Cast" in {n.op_type for n in after.graph.node}


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        (f"n = Sub(x, per)  {PAIR}", "differs by channel"),
        ("q = QuantizeLinear<axis = 1>(x, many, zeros)  d = DequantizeLinear<axis = 1>(q, many, zeros)", "per channel"),
        (f"n = Neg(x)  {PAIR}", "cannot be inverted"),
        (f"n = Abs(x)  {PAIR}", "not exact on the quantizer's grid"),
        (f"n = Exp(x)  {PAIR}", "Exp n reads it in float"),
        (f"n = Mul(x, zero)  {PAIR}", "cannot be inverted"),
        (f"n = Sub(x, byte)  {PAIR}", "zero point would be"),
        ("d = Identity(x)", "Conv c reads it in float"),
    ],
)
def test_inputs_that_stay(front: str, reason: str) -> None:
    before, after, reasons = converted(graph(front))
    assert reason in reasons and types(after.graph.input) == {"x": "FLOAT"} and not known(after, "input")
    assert_same(before, after)


def test_an_input_that_is_also_read_in_float_stays() -> None:
    _, after, reasons = converted(
        graph(f"n = Identity(x)  {PAIR}", CONV + "  y2 = Relu(x)", y="float[1,2,4,4] y, float[1,3,4,4] y2")
    )
    assert "the input stays as it is: Relu y2 reads it in float" in reasons
    assert "the output stays as it is: Relu y2 computes it in float" in reasons
    assert types(after.graph.input) == {"x": "FLOAT"} and types(after.graph.output) == {"y": "UINT8", "y2": "FLOAT"}


def test_different_scales_stay() -> None:
    front = "q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  p = QuantizeLinear(x, s3, z)"
    _, after, reasons = converted(
        graph(front, CONV + "  y2 = DequantizeLinear(p, s3, z)", y="float[1,2,4,4] y, float[1,3,4,4] y2")
    )
    assert "different scales" in reasons and types(after.graph.input) == {"x": "FLOAT"}


def test_an_overridable_default_stays() -> None:
    text = """g (float[4] x) => (float[4] y) <float[4] x = {1,2,3,4}, float s = {0.5}, uint8 z = {3}> {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = Exp(d) }"""
    _, after, reasons = converted(text)
    assert "default value" in reasons and types(after.graph.input) == {"x": "FLOAT"}


def test_an_input_read_in_a_branch_stays() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) <float s = {0.5}, uint8 z = {3}> {
        y = If(c) <then_branch = t () => (float[2] a) {
            q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  a = Exp(d) },
            else_branch = f () => (float[2] b) { b = Neg(x) }> }"""
    _, after, reasons = converted(text)
    assert "read in a branch" in reasons and types(after.graph.input)["x"] == "FLOAT"


def test_an_output_that_is_read_inside_is_floats_there() -> None:
    back = CONV + "  y2 = Exp(y)"
    before, after, _ = converted(graph(f"n = Identity(x)  {PAIR}", back, y="float[1,2,4,4] y, float[1,2,4,4] y2"))
    assert types(after.graph.output) == {"y": "UINT8", "y2": "FLOAT"}
    assert_same(before, after)


def test_an_output_that_only_comes_back_from_the_input() -> None:
    text = """g (float[4] x) => (float[4] y) <float s = {0.5}, int8 z = {-3}> {
        q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"""
    before, after, _ = converted(text)
    assert types(after.graph.input) == {"x": "INT8"} and types(after.graph.output) == {"y": "INT8"}
    assert_same(before, after)


def test_sixteen_bits_and_no_zero_point() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[64] x) => (float[64] y) <float s = {0.5}, uint16 z = {300}> {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  e = Abs(d)
        r = QuantizeLinear(e, s)  y = DequantizeLinear(r, s) }"""
    before, after, reasons = converted(text)
    assert not reasons and types(after.graph.input) == {"x": "UINT16"} and types(after.graph.output) == {"y": "UINT8"}
    assert_same(before, after)


def test_a_float_model_stays_as_it_is() -> None:
    _, after, reasons = converted("g (float[4] x, int64[1] i) => (float[4] y) { y = Relu(x) }")
    assert reasons.count("float") == 2 and not after.metadata_props
