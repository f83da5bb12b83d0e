"""Activation memory against counting by hand and against a run that keeps every value."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.analysis.memory import memory
from onnxslim.analysis.shapes import infer
from tests.models import model, proto, run

CHAIN = "g (float[n, 4] x) => (y) { a = Neg(x) b = Concat<axis = 1>(a, a, a) c = Relu(b) y = ReduceSum(c) }"


def test_a_chain_by_hand() -> None:
    found = memory(model(CHAIN))
    # x stays to the end (16), b and c are alive together (48 each); y is one float
    assert (found.peak, found.at) == (16 + 48 + 48, "Relu")
    assert (found.largest, found.largest_bytes) == ("b", 48)
    assert not found.unknown


def test_dimensions_multiply() -> None:
    built = model(CHAIN)
    assert memory(built, infer(built, {"n": 10})).peak == 10 * (16 + 48 + 48)


def test_open_dimensions_are_the_reason() -> None:
    found = memory(built := model(CHAIN), infer(built))
    assert found.peak is None and found.at_least == 4  # of y alone is the size known
    assert found.unknown == dict.fromkeys("xabc", "open dimensions: n")


def test_what_cannot_be_known_is_named() -> None:
    built = model(
        "g (float[4] x, string[2] s, seq(float[2]) q) => (y, z)"
        "{ i = NonZero(x) f = Cast<to = 1>(i) y = nobody.Knows(f) z = own.Call(x) }"
        '<domain: "own", opset_import: ["" : 17]> Call (v) => (w) { w = Neg(v) }',
        nobody=1,
        own=1,
    )
    found = memory(built)
    assert found.peak is None and found.at_least >= 16 + 16
    assert found.unknown["s"] == "strings are of any length"
    assert found.unknown["i"] == found.unknown["f"] == "its shape follows from data"
    assert "type" in found.unknown["q"] and "type" in found.unknown["y"]
    assert "function Call" in found.unknown["Call"]


def test_elements_of_less_than_a_byte_are_packed() -> None:
    built = model(
        "g (float[1, 5] x) => (y) <float s = {0.5}, uint4 z = {3}>"
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        opset=21,
    )
    assert memory(built).peak == 20 + 3 + 20


def test_what_is_computed_from_weights_is_none() -> None:
    built = model(
        "g (float[2] x) => (y) <int8[2] w = {1, 2}, float s = {0.5}, int8 z = {0}>"
        "{ d = DequantizeLinear(w, s, z) c = Constant<value_floats = [1.0, 2.0]>()"
        "  e = Mul(d, c) y = Add(x, e) }"
    )
    assert memory(built).peak == 8 + 8


BRANCHES = """g (bool c, float[4] x) => (y) {
    a = Neg(x)
    y = If (c) <
        then_branch = t () => (p) { p = Relu(a) },
        else_branch = e () => (s) {
            q = Concat<axis = 0>(a, a, a)
            r = Neg(q)
            zero = Constant<value_ints = [0]>()
            four = Constant<value_ints = [4]>()
            s = Slice(r, zero, four) }
    >
}"""


def test_the_dearer_branch_counts_and_what_it_reads_stays_alive() -> None:
    found = memory(model(BRANCHES))
    # c, x and a, the If's own output, and in the branch q and r
    assert found.peak == 1 + 16 + 16 + 16 + 48 + 48 and found.at == "If"


def test_a_loop_holds_one_round_of_its_body() -> None:
    built = model(
        """g (float[8] x) => (y) <int64 trips = {3}, bool go = {1}> {
            y = Loop (trips, go, x) <body = b (int64 i, bool k, float[8] s) => (bool k2, float[8] s2)
                { k2 = Identity(k) t = Neg(s) s2 = Relu(t) }>
        }"""
    )
    found = memory(built)
    # x; in the body i, k and s, then k2 to the end, and t beside s2; the Loop's own output may have any shape
    assert found.peak is None and found.unknown == {"y": "its shape is not known"}
    assert found.at_least == 32 + (8 + 1 + 32) + 1 + 32 + 32


def test_absurd_sizes_are_no_sizes() -> None:
    huge = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [1 << 62] * 60)
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [huge], [y])
    found = memory(ir.from_proto(onnx.helper.make_model(graph)))
    assert found.peak is None and set(found.unknown) == {"x", "y"} and found.at_least == 0


@st.composite
def programs(draw: st.DrawFn) -> str:
    """A graph over vectors, in which values are read by any later node or by none."""
    size = draw(st.integers(1, 5)) * 8
    names, lines = ["x"], []
    for index in range(draw(st.integers(1, 12))):
        name, a, b = f"v{index}", draw(st.sampled_from(names)), draw(st.sampled_from(names))
        forms = (
            f"{name} = Neg({a})",
            f"{name} = Concat<axis = 0>({a}, {b})",
            f"{name} = Slice({a}, zero, three)",
            f"{name}n = Cast<to = 10>({a}) {name} = Cast<to = 1>({name}n)",
        )
        lines.append(draw(st.sampled_from(forms)))
        names.append(name)
    outputs = draw(st.lists(st.sampled_from(names[1:]), min_size=1, max_size=3, unique=True))
    stored = "<int64[1] zero = {0}, int64[1] three = {3}>"
    return f"g (float[{size}] x) => ({', '.join(outputs)}) {stored} {{ {' '.join(lines)} }}"


@settings(max_examples=60, deadline=None)
@given(programs())
def test_against_a_run_that_keeps_every_value(text: str) -> None:
    """Sizes come from onnxruntime, lifetimes from asking at each step who still reads a value later."""
    kept = proto(text)
    outputs = [value.name for value in kept.graph.output]
    computed = [name for node in kept.graph.node for name in node.output]
    del kept.graph.output[:]
    kept.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    x = np.ones([dim.dim_value for dim in kept.graph.input[0].type.tensor_type.shape.dim], np.float32)
    sizes = {name: array.nbytes for name, array in zip(computed, run(kept, {"x": x}), strict=True)}
    sizes["x"] = x.nbytes
    nodes = list(kept.graph.node)
    moments = [sizes["x"]]
    for step, node in enumerate(nodes):
        made = {"x"} | {name for earlier in nodes[: step + 1] for name in earlier.output}
        needed = {"x", *outputs, *node.output} | {name for later in nodes[step:] for name in later.input}
        moments.append(sum(sizes[name] for name in made & needed))
    found = memory(model(text))
    assert found.peak == max(moments)
    assert found.largest_bytes == max(sizes.values())


@pytest.mark.parametrize(
    "text", ["g (float[3] x) => (float[3] x) { }", "g () => (y) { y = Constant<value_float = 1.0>() }"]
)
def test_models_that_compute_nothing(text: str) -> None:
    found = memory(model(text))
    assert found.peak == (12 if "x" in text else 0) and found.at == ""
