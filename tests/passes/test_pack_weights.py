"""Packed weights: what is stored, what the runtime makes of it, what is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import collect_declines
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import model, proto, run


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def with_weight(text: str, *shape: int, name: str = "w") -> ir.Model:
    """A model from text in which the undefined ``w`` is an initializer of the graph of its first reader."""
    source = proto(text)
    graphs = [source.graph, *(a.g for n in source.graph.node for a in n.attribute if a.HasField("g"))]
    owner = next(g for g in graphs if any(name in n.input for n in g.node))
    owner.initializer.append(onnx.numpy_helper.from_array(normal(*shape), name))
    return ir.from_proto(source)


def constant_model() -> ir.Model:
    text = "g (float[4,64] x) => (float[4,32] y, float[4,32] z) { y = MatMul(x, w)  z = MatMul(x, w) }"
    return with_weight(text, 64, 32)


def test_tied_weights_are_packed_once_and_folded_at_load() -> None:
    original = constant_model()
    packed = original.clone()
    assert PackWeights()(packed).modified
    onnx.checker.check_model(ir.to_proto(packed))
    assert [n.op_type for n in packed.graph] == ["Cast", "Cast", "Mul", "MatMul", "MatMul"]
    assert serialized_size(packed) < 0.4 * serialized_size(original)
    for level in ("basic", "all"):
        histogram = executed(packed, optimize=level).histogram
        assert "Cast" not in histogram and "Mul" not in histogram
    feed = {"x": normal(4, 64)}
    for one, other in zip(run(original, feed), run(packed, feed), strict=True):
        assert sqnr_db(one, other) > 35
    assert not PackWeights()(packed).modified


def test_rows_of_a_large_table_are_gathered_as_integers() -> None:
    original = with_weight("g (int64[2,3] i) => (float[2,3,64] y) { y = Gather(w, i) }", 5000, 64)
    packed = original.clone()
    assert PackWeights()(packed).modified
    kernel = next(k for k in executed(packed).kernels if k.op_type == "Gather")
    assert "w_q" in kernel.inputs
    indices = np.array([[0, 4999, -1], [7, 7, 123]])
    one, other = run(original, {"i": indices})[0], run(packed, {"i": indices})[0]
    assert sqnr_db(one, other) > 35 and packed.graph.outputs[0].name == "y"
    assert not PackWeights()(packed).modified


def test_weights_in_branches_and_functions() -> None:
    branchy = with_weight(
        """g (bool c, float[64] x) => (float[64] y)
        { y = If (c) <then_branch = t () => (float[64] a) { a = MatMul(x, w) },
                      else_branch = e () => (float[64] b) { b = Neg(x) }> }""",
        *(64, 64),
    )
    packed = branchy.clone()
    assert PackWeights()(packed).modified
    onnx.checker.check_model(ir.to_proto(packed))
    assert "Cast" not in executed(packed).histogram
    for c in (True, False):
        feed = {"c": np.array(c), "x": normal(64)}
        assert sqnr_db(run(branchy, feed)[0], run(packed, feed)[0]) > 35


def test_a_constant_inside_a_function() -> None:
    w = ir.node("Constant", [], {"value": ir.Tensor(normal(64, 64))})
    w.outputs[0].name = "w"
    x = ir.Value(name="a")
    inner = ir.node("MatMul", [x, w.outputs[0]])
    inner.outputs[0].name = "b"
    body = ir.Graph([x], [inner.outputs[0]], nodes=[w, inner], opset_imports={"": 17}, name="f")
    function = ir.Function("local", "f", graph=body, attributes=[])
    built = model("g (float[2,64] x) => (float[2,64] y) { y = Identity(x) }", local=1)
    built.functions[function.identifier()] = function
    assert PackWeights()(built).modified
    assert [n.op_type for n in function] == ["Constant", "Constant", "Cast", "Cast", "Mul", "MatMul"]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[4] x) => (float[4] y) <float[4] w = {1,2,3,4}> { y = Add(x, w) }",  # too small to pay
        "g (float[64,64] x, float[64,64] w) => (float[64,64] y) { y = Add(x, w) }",
        "g (float[64,64] x) => (float[64,64] y) { y = Relu(x) }",
    ],
)
def test_left_alone(text: str) -> None:
    built = model(text)
    before = ir.to_proto(built).SerializeToString()
    assert not PackWeights()(built).modified
    assert ir.to_proto(built).SerializeToString() == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_declined(bad: float) -> None:
    built = constant_model()
    weight = normal(64, 32)
    weight[3, 3] = bad
    edit.replace_initializer(built.graph.initializers["w"], weight)
    with collect_declines() as log:
        assert not PackWeights()(built).modified
    assert [(d.node, d.reason) for d in log.entries] == [("w", "the weight is not finite")]


def test_noisy_and_excluded_weights_are_declined() -> None:
    built = constant_model()
    with collect_declines() as log:
        assert not PackWeights(min_sqnr_db=90)(built).modified
        assert not PackWeights(exclude="a*, w")(built).modified
    assert [d.reason.split(",")[0] for d in log.entries][1] == "excluded by the user"
    assert "dB, below 90" in log.entries[0].reason


def test_old_operator_sets_are_declined() -> None:
    built = constant_model()
    built.graph.opset_imports[""] = 6
    with collect_declines() as log:
        assert not PackWeights()(built).modified
    assert "opset 6" in log.entries[0].reason


def test_options() -> None:
    with pytest.raises(OptionError, match="min_sqnr_db"):
        PackWeights(min_sqnr_db=-1)


@pytest.mark.parametrize(("axis", "casts"), [(0, 2), (1, 1)])
def test_scales_that_are_not_per_output_channel_pass_through_a_second_cast(axis: int, casts: int) -> None:
    """Found with OpenVINO 2026.4, which decodes them wrongly else; tests/contract/test_quantized.py runs it."""
    original = with_weight("g (float[4,64] x) => (float[4,32] y) { y = MatMul(x, w) }", 64, 32)
    weight = original.graph.initializers["w"].const_value
    assert weight is not None
    spread = np.logspace(-2, 2, weight.shape[axis], dtype=np.float32)  # which axis the scales take
    edit.replace_initializer(
        original.graph.initializers["w"], weight.numpy() * (spread[:, None] if axis == 0 else spread)
    )
    packed = original.clone()
    assert PackWeights()(packed).modified
    assert [n.op_type for n in packed.graph] == ["Cast"] * casts + ["Mul", "MatMul"]
    assert packed.graph.initializers["w_s"].shape == ((64, 1) if axis == 0 else (1, 32))
    assert executed(packed).histogram == {"MatMul": 1}
    [one], [other] = run(original, {"x": normal(4, 64)}), run(packed, {"x": normal(4, 64)})
    assert sqnr_db(one, other) > 35
    assert not PackWeights()(packed).modified


@pytest.mark.parametrize("shape", [(4096,), (1, 4096), (4096, 1, 1)])
def test_vectors_are_left_to_16_bits(shape: tuple[int, ...]) -> None:
    """One scale for a whole vector would be much noise for few bytes."""
    packed = with_weight("g (float[4096,4096,4096] x) => (float[a,b,c] y) { y = Add(x, w) }", *shape)
    assert not PackWeights()(packed).modified and not PackWeights().stored(packed)
    assert HalveWeights()(packed).modified
    [stored] = packed.graph.initializers.values()
    assert stored.dtype == ir.DataType.FLOAT16
