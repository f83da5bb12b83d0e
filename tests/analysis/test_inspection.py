"""What an inspection tells about weights and quantization, and how two of them differ."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.helper
import pytest

from onnxslim.analysis.difference import Change, difference
from onnxslim.analysis.inspection import Inspection, Interface, Stored, inspect
from onnxslim.report.report import plain
from tests.models import proto

Q = "s = Constant<value_float = 0.1>() z = Constant<value = int8 {0}>()"


def found(text: str, **weights: np.ndarray) -> Inspection:
    built = proto(text, opset=21, **{"com.microsoft": 1})
    built.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in weights.items())
    return inspect(built)


def ones(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def test_float_models_are_not_quantized() -> None:
    state = found("g (float[1, 4] x) => (y) { y = MatMul(x, w) }", w=ones(4, 6)).quantized
    assert (state.kind, state.products, state.quantized, state.weight_only) == ("none", 1, 0, 0)
    assert state.weight_bits == {32: 24} and not state.integer


def test_operands_between_quantizers() -> None:
    state = found(
        f"""g (float[1, 4] x) => (y) {{ {Q}
            q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
            wd = DequantizeLinear(w, s, z) t = Transpose(wd)
            a = MatMul(d, t)
            b = MatMul(x, t)
            y = Add(a, b) }}""",
        w=ones(6, 4, dtype=np.int8),
    ).quantized
    assert (state.kind, state.quantize, state.dequantize) == ("qdq", 1, 2)
    assert (state.pairs, state.stored) == (1, 1)
    assert (state.products, state.quantized, state.weight_only) == (2, 1, 1)  # a; b reads x in float


def test_integer_operators() -> None:
    state = found(
        "g (float[1, 4] x) => (y) { q, s, z = DynamicQuantizeLinear(x) y = MatMulInteger(q, w, z) }",
        w=ones(4, 6, dtype=np.int8),
    ).quantized
    assert (state.kind, state.integer, state.quantized) == ("integer", {"MatMulInteger": 1}, 1)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("FLOAT16", 16), ("FLOAT8E4M3FN", 8), ("INT8", 8), ("UINT4", 4), ("INT2", 2)],
)
def test_bits_of_stored_weights(dtype: str, bits: int) -> None:
    code = getattr(onnx.TensorProto, dtype)
    text = "g (float[1, 64] x) => (y) { d = Cast<to = 1>(w) m = Mul(d, s) y = MatMul(x, m) }"
    built = proto(text, opset=25)
    for name, kind, shape in (("w", code, [64, 80]), ("s", onnx.TensorProto.FLOAT, [])):
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape)
        tensor.raw_data = bytes(64 * 80 * bits // 8 if shape else 4)
        built.graph.initializer.append(tensor)
    built.ir_version = 13
    result = inspect(built)
    assert result.quantized.weight_bits == {bits: 64 * 80}
    assert result.quantized.kind == ("none" if bits == 16 else "weights")
    assert result.quantized.weight_only == (0 if bits == 16 else 1)
    assert result.heaviest_weights == (("MatMul", "MatMul", 64 * 80 * bits // 8 + 4),)  # with the scale


def test_packed_weights_count_by_what_they_hold() -> None:
    state = found(
        "g (float[1, 32] x) => (y) { y = com.microsoft.MatMulNBits<K = 32, N = 6, bits = 4, block_size = 32>"
        "(x, w, s) }",
        w=ones(6, 1, 16, dtype=np.uint8),
        s=ones(6),
    ).quantized
    assert state.weight_bits == {4: 6 * 32} and state.weight_only == 1 and state.kind == "integer"


def test_shared_weights_and_what_sharing_saves() -> None:
    result = found(
        "g (float[1, 4] x) => (y) { [first] a = MatMul(x, w) [second] b = MatMul(a, w)"
        "  [third] c = MatMul(b, w) [last] y = MatMul(c, v) }",
        w=ones(4, 4),
        v=ones(4, 4),
    )
    [shared] = result.shared_weights
    assert (shared.name, shared.readers) == ("w", ("first", "second", "third"))
    assert (shared.bytes, shared.saved) == (64, 128)
    assert {name for name, _, _ in result.heaviest_weights} == {"first", "second", "third", "last"}


def test_constants_are_looked_through_only_so_far() -> None:
    """Joining ever more weights takes linear time and ends."""
    lines = ["c0 = Neg(w0)"]
    weights = {"w0": ones(2)}
    for index in range(1, 300):
        weights[f"w{index}"] = ones(2)
        lines.append(f"c{index} = Add(c{index - 1}, w{index})")
    text = f"g (float[2] x) => (y) {{ {' '.join(lines)} y = Add(x, c299) }}"
    assert found(text, **weights).heaviest_weights == (("Add", "Add", 64 * 8),)


BEFORE = "g (float[n, 4] x, float[4] gone) => (float[n, 6] y) { m = MatMul(x, w) r = Relu(m) y = Add(r, b) }"
AFTER = "g (float[n, 4] x) => (float16[n, 6] y) { m = MatMul(x, w) a = Add(m, b2) y = Cast<to = 10>(a) }"


def test_a_difference_by_hand() -> None:
    a = found(BEFORE, w=ones(4, 6), b=ones(6))
    b = found(AFTER, w=ones(4, 6, dtype=np.float16), b2=ones(6))
    changes = difference(a, b)
    assert changes.inputs == {"gone": Change(Interface("gone", "float", (4,)), None)}
    before, after = Interface("y", "float", ("n", 6)), Interface("y", "float16", ("n", 6))
    assert changes.outputs == {"y": Change(before, after)}
    assert changes.ops == {"Relu": Change(1, 0), "Cast": Change(0, 1)} and changes.opsets == {}
    assert changes.sizes["nodes"] == Change(3, 3) and changes.sizes["tensors"] == Change(2, 2)
    assert changes.sizes["macs"] == Change(24, 24)
    assert changes.bytes_by_dtype == {"float": Change(120, 24), "float16": Change(0, 48)}
    assert changes.quantized == {"weight_bits": Change({32: 24}, {16: 24})} and changes.quantization is None
    assert changes.added.named == {"b2": Change(None, Stored("float", (6,), 24))}
    assert changes.removed.named == {"b": Change(Stored("float", (6,), 24), None)}
    assert changes.changed.named == {"w": Change(Stored("float", (4, 6), 96), Stored("float16", (4, 6), 48))}
    assert changes.changed.bytes == Change(96, 48)
    json.dumps(plain(changes.to_dict()), allow_nan=False)


def test_a_model_does_not_differ_from_itself() -> None:
    a = found(BEFORE, w=ones(4, 6), b=ones(6))
    changes = difference(a, a)
    assert not any((changes.inputs, changes.outputs, changes.opsets, changes.ops, changes.quantized))
    assert changes.added.count == changes.removed.count == changes.changed.count == 0
    assert all(size.before == size.after for size in changes.sizes.values())


def test_a_difference_mirrors_its_inverse() -> None:
    a = found(BEFORE, w=ones(4, 6), b=ones(6))
    b = found(AFTER, w=ones(4, 6, dtype=np.float16), b2=ones(6))
    there, back = difference(a, b), difference(b, a)
    assert there.added.named.keys() == back.removed.named.keys()
    for field in ("inputs", "outputs", "sizes", "bytes_by_dtype", "quantized"):
        turned = {name: Change(c.after, c.before) for name, c in getattr(back, field).items()}
        assert getattr(there, field) == turned, field


def test_many_tensors_are_counted_and_few_named() -> None:
    base = "g (float[1] x) => (y) { y = Neg(x) }"
    many = {f"w{index}": ones(index + 1) for index in range(50)}
    added = difference(found(base), found(base, **many)).added
    assert added.count == 50 and added.bytes == Change(0, 4 * 50 * 51 // 2)
    assert list(added.named) == [f"w{index}" for index in range(49, 29, -1)]  # the largest


def test_the_json_has_no_list_of_all_tensors() -> None:
    result = found(BEFORE, w=ones(4, 6), b=ones(6))
    assert set(result.tensors) == {"w", "b"} and "tensors" not in result.to_dict()
