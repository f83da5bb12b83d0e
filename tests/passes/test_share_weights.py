"""Views of weights: each kind, what only looks like one, and generated graphs, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import collect_declines
from onnxslim.passes.deduplicate_initializers import DeduplicateInitializers
from onnxslim.passes.share_weights import ShareWeights
from onnxslim.runtime.kernels import executed
from tests.models import bit_equal, proto, run

Array = np.ndarray[Any, Any]


def normal(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(shape).normal(size=shape).astype(dtype)


def held(weights: Mapping[str, Array], *, opset: int = 17, constants: bool = False) -> ir.Model:
    """A model that gives out each weight, so that every bit can be seen."""
    nodes, outputs, stored = [], [], []
    for name, content in weights.items():
        tensor = onnx.numpy_helper.from_array(content, name)
        if constants:
            nodes.append(oh.make_node("Constant", [], [name], value=tensor))
        else:
            stored.append(tensor)
        nodes.append(oh.make_node("Identity", [name], [f"{name}_out"]))
        outputs.append(oh.make_tensor_value_info(f"{name}_out", tensor.data_type, content.shape))
    graph = oh.make_graph(nodes, "held", [], outputs, stored)
    made = oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=9)
    return ir.from_proto(made)


def checked(weights: Mapping[str, Array], **options: Any) -> list[str]:
    """Share, check every bit and the bytes, and return the operators of the views."""
    original = held(weights, **options)
    model = original.clone()
    modified = ShareWeights()(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for one, other in zip(run(original, {}), run(model, {}), strict=True):
        assert bit_equal(one, other)
    assert serialized_size(model) < serialized_size(original) if modified else True
    assert not ShareWeights()(model).modified
    kept = ("Identity", "Constant")
    return sorted(node.op_type for node in model.graph if node.op_type not in kept)


BASE = normal(32, 40)
LARGE = normal(6, 8, 10, 4)
TABLE = np.arange(4096, dtype=np.int16).reshape(64, 64) - 2000


@pytest.mark.parametrize("constants", [False, True], ids=["initializers", "Constant nodes"])
@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": BASE, "b": BASE.reshape(40, 32)}, ["Reshape"]),
        ({"a": BASE, "b": BASE.T}, ["Transpose"]),
        ({"a": LARGE, "b": LARGE.transpose(3, 1, 0, 2)}, ["Transpose"]),
        ({"a": BASE.astype(np.float16), "b": BASE.T.astype(np.float16)}, ["Transpose"]),
        ({"a": BASE, "b": -BASE}, ["Neg"]),
        ({"a": BASE, "b": BASE * 8}, ["Mul"]),
        ({"a": BASE.astype(np.float64), "b": BASE.astype(np.float64) * -(2.0**-60)}, ["Mul"]),
        ({"a": BASE.astype(np.float16), "b": BASE.astype(np.float16).astype(np.float32)}, ["Cast"]),
        ({"a": TABLE.astype(np.float32), "b": TABLE}, ["Cast"]),
        ({"a": BASE, "b": BASE[5:20]}, ["Slice"]),
        ({"a": TABLE[20:40], "b": TABLE}, ["Slice"]),
        ({"a": BASE, "b": BASE.T, "c": -BASE, "d": BASE[10:], "e": BASE[12:]}, ["Neg", *["Slice"] * 2, "Transpose"]),
        ({"a": BASE.reshape(-1)[:900], "b": BASE, "c": BASE.reshape(-1)}, ["Reshape"]),
    ],
)
def test_views(weights: dict[str, Array], expected: list[str], constants: bool) -> None:
    assert checked(weights, constants=constants) == expected


def changed(array: Array, index: int, bits: int) -> Array:
    """A copy in which one element has other bits."""
    copy = array.copy().reshape(-1)
    copy.view(f"u{copy.itemsize}")[index] = bits
    return copy.reshape(array.shape)


ZERO = changed(BASE, 700, 0)  # the last of many elements, beyond what is compared first
NAN = changed(BASE, 700, 0x7FC00001)


@pytest.mark.parametrize(
    "weights",
    [
        {"a": ZERO, "b": changed(ZERO, 700, 1 << 31).T},  # 0.0 and -0.0
        {"a": ZERO, "b": changed(-ZERO, 700, 0)},
        {"a": NAN, "b": changed(NAN, 700, 0x7FC00002).T},
        {"a": NAN, "b": -NAN},  # arithmetic need not keep what a NaN carries
        {"a": NAN, "b": NAN.astype(np.float64)},
        {"a": BASE, "b": BASE * np.float32(3)},
        {"a": BASE, "b": changed(BASE * 2, 700, 0)},
        {"a": BASE.astype(np.float16), "b": -BASE.astype(np.float16)},  # no kernel that could be folded
        {"a": normal(20, 20, dtype=np.float64), "b": normal(20, 20)},  # rounding is no widening
        {"a": TABLE, "b": TABLE.view(np.uint16)},
        {"a": TABLE, "b": TABLE.view(np.float16)},
        {"a": BASE, "b": BASE[::2]},
        {"a": BASE, "b": BASE[:, :30]},
        {"a": BASE, "b": changed(BASE[5:20], 590, 0)},
        {"a": normal(8, 8), "b": normal(8, 8).T},  # too small to pay for a node
    ],
)
def test_what_only_looks_like_a_view(weights: dict[str, Array]) -> None:
    assert checked(weights) == []


def test_odd_types_are_moved_as_bits() -> None:
    signs = np.random.default_rng(1).random((64, 48)) < 0.5
    assert checked({"a": signs, "b": signs.T}) == ["Transpose"]
    short = BASE.astype(ml_dtypes.bfloat16)
    model = held({"a": short, "b": short.T, "c": short.astype(np.float32)})
    assert ShareWeights()(model).modified  # numpy cannot be given these as outputs
    assert sorted({node.op_type for node in model.graph}) == ["Cast", "Identity", "Transpose"]


@pytest.mark.parametrize("level", ["basic", "all"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_views_cost_nothing_at_run_time(level: Any, dtype: Any) -> None:
    """What runs is what ran: the views are computed while the model is loaded."""
    weights = {"w": normal(48, 48, dtype=dtype), "u": normal(64, 48, dtype=dtype), "g": normal(100, 48, dtype=dtype)}
    weights |= {"v": weights["w"].T, "s": weights["u"][8:56], "e": weights["g"].T}
    if dtype is np.float32:
        weights |= {"n": -weights["w"], "m": weights["w"] * 2}
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [oh.make_node("Gather", ["g", "ids"], ["h"])]
    for name in weights:
        if name not in ("u", "g", "e"):
            nodes.append(oh.make_node("MatMul", [nodes[-1].output[0], name], [f"h_{name}"]))
    last = nodes[-1].output[0]
    nodes.append(oh.make_node("Gemm", [last, "u"], ["tall"], transB=1))
    nodes.append(oh.make_node("MatMul", [last, "e"], ["y"]))
    ids = oh.make_tensor_value_info("ids", onnx.TensorProto.INT64, [4])
    outputs = [oh.make_tensor_value_info(name, kind, [4, size]) for name, size in (("tall", 64), ("y", 100))]
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(c), name) for name, c in weights.items()]
    graph = oh.make_graph(nodes, "g", [ids], outputs, stored)
    before = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9)
    model = ir.from_proto(before)
    assert ShareWeights()(model).modified and len(model.graph) - len(nodes) == len(weights) - 3
    after = ir.to_proto(model)
    assert executed(after, optimize=level).histogram == executed(before, optimize=level).histogram


def test_inner_graphs_read_outer_ones_and_never_the_other_way_round() -> None:
    text = """g (bool c, float[1,40] x) => (float[32,40] y, float[32,40] z) {
        z = Mul(x, w)
        y = If(c) <
            then_branch = t () => (float[32,40] a) { p = Mul(x, r)  a = Identity(p) },
            else_branch = f () => (float[32,40] b) { b = Mul(x, s) }> }"""
    source = proto(text)
    branches = [attribute.g for attribute in source.graph.node[1].attribute]
    source.graph.initializer.append(onnx.numpy_helper.from_array(BASE, "w"))
    branches[0].initializer.append(onnx.numpy_helper.from_array(-BASE, "r"))
    branches[1].initializer.append(onnx.numpy_helper.from_array(BASE * 4, "s"))
    model = ir.from_proto(source)
    assert ShareWeights()(model).modified
    assert [node.op_type for node in model.graph] == ["Mul", "If"]
    for way in (True, False):
        feed = {"c": np.array(way), "x": normal(1, 40)}
        assert all(map(bit_equal, run(source, feed), run(model, feed)))

    del source.graph.initializer[0]
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.abs(BASE), "w"))
    assert not ShareWeights()(ir.from_proto(source)).modified, "the branches do not see each other"


def test_inputs_and_outputs_keep_theirs() -> None:
    model = held({"a": BASE, "b": -BASE, "c2": BASE * 2})
    model.graph.inputs.append(model.graph.initializers["a"])
    model.graph.outputs.append(model.graph.initializers["c2"])
    original = model.clone()
    assert ShareWeights()(model).modified
    assert set(model.graph.initializers) >= {"a", "c2"} and "b" not in model.graph.initializers
    [view] = [node for node in model.graph if node.op_type == "Mul"]
    assert view.inputs[0] is model.graph.initializers["c2"]
    feed = {"a": BASE + 1}
    assert all(map(bit_equal, run(original, feed), run(model, feed)))


def test_old_operator_sets_are_declined() -> None:
    model = held({"a": BASE, "b": BASE.T}, opset=9)
    with collect_declines() as log:
        assert not ShareWeights()(model).modified
    assert "operator set 10" in log.entries[0].reason


@st.composite
def families(draw: st.DrawFn) -> dict[str, Array]:
    """Weights made of each other, with numbers that are easily mistaken for one another."""
    numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-40, 3e38, float("nan"), float("inf")])
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    kind = draw(st.sampled_from([np.float32, np.float64, np.float16, np.int32]))
    contents = draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    with np.errstate(all="ignore"):
        made = [np.array(contents, np.float64).reshape(rows, columns).astype(kind)]
        for _ in range(draw(st.integers(1, 6))):
            of = draw(st.sampled_from(made))
            start = draw(st.integers(0, len(of) - 1))
            ways = {
                "T": of.T,
                "flat": of.reshape(-1, 1),
                "minus": -of,
                "scaled": of * of.dtype.type(draw(st.sampled_from([2, 4, 3]))),
                "rows": of[start : draw(st.integers(start + 1, len(of)))],
                "double": of.astype(np.float64),
                "same": of.copy(),
                "zeros": np.where(of == 0, of.dtype.type(0), of),
            }
            made.append(np.ascontiguousarray(ways[draw(st.sampled_from(sorted(ways)))]))
    return {f"w{index}": content for index, content in enumerate(made)}


@given(families(), st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_generated_families_keep_every_bit(weights: dict[str, Array], constants: bool) -> None:
    original = held(weights, constants=constants)
    model, expected = original.clone(), run(original, {})
    passes = (DeduplicateInitializers(), ShareWeights(min_bytes=1))
    for p in passes:
        p(model)
        for one, other in zip(expected, run(model, {}), strict=True):
            assert bit_equal(one, other), p.name
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    small = original.clone()
    for p in (DeduplicateInitializers(), ShareWeights()):
        p(small)
        assert serialized_size(small) <= serialized_size(original) + 2  # the estimate is good to a few bytes


def test_equal_views_in_half_precision_stay_apart() -> None:
    """onnxruntime would make one of them, and cast it in each run."""
    weight = normal(40, 40, dtype=np.float16)
    contents = {"w": weight, "v": weight.T, "u": weight.T}
    nodes = [oh.make_node("MatMul", [f"x{i}", name], [f"x{i + 1}"]) for i, name in enumerate(contents)]
    ends = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, [4, 40]) for name in ("x0", "x3")]
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(c), name) for name, c in contents.items()]
    graph = oh.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    before = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9)
    model = ir.from_proto(before)
    with collect_declines() as log:
        assert ShareWeights()(model).modified and not ShareWeights()(model).modified
    assert [entry.node for entry in log.entries] == ["u"] and list(model.graph.initializers) == ["w", "u"]
    assert executed(ir.to_proto(model)).histogram == executed(before).histogram


def test_integer_kernels_take_views_of_their_weights() -> None:
    text = """g (float[4,64] x) => (float[4,64] y) <float s = {0.02}, uint8 z = {128}, float t = {0.01}, int8 o = {0}> {
        q = QuantizeLinear(x, s, z)  a = DequantizeLinear(q, s, z)
        b = DequantizeLinear(w, t, o)  c = MatMul(a, b)
        d = QuantizeLinear(c, s, z)  e = DequantizeLinear(d, s, z)
        f = DequantizeLinear(v, t, o)  h = MatMul(e, f)
        i = QuantizeLinear(h, s, z)  y = DequantizeLinear(i, s, z) }"""
    before = proto(text)
    weight = np.random.default_rng(0).integers(-127, 127, (64, 64), dtype=np.int8)
    for name, content in {"w": weight, "v": np.ascontiguousarray(weight.T)}.items():
        before.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    model = ir.from_proto(before)
    assert ShareWeights()(model).modified
    assert executed(ir.to_proto(model)).histogram == executed(before).histogram
