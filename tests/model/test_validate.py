"""What the hostile corpus does not pin down: the places named, order, repairs, counts."""

from __future__ import annotations

import warnings

import onnx
import pytest
from onnx import helper
from onnx.backend.test.case.node import collect_testcases

from onnxslim._ir import ir
from onnxslim.errors import ModelError, ResourceError
from onnxslim.model.check import check
from onnxslim.model.io import load, serialized_size, to_proto
from onnxslim.model.limits import Limits
from onnxslim.model.wire import _messages, check_unfolding
from tests.models import proto

CHAIN = "g (float[2] x) => (float[2] y) { [one] a = Relu(x) [two] b = Neg(a) [three] y = Abs(b) }"


def test_unsorted_nodes_are_sorted_stably() -> None:
    text = "g (float[2] x) => (float[2] y) { y = Add(b, c) c = Abs(a) b = Neg(a) a = Relu(x) z = Exp(x) }"
    names = [node.outputs[0].name for node in load(proto(text)).graph]
    assert sorted(names) == ["a", "b", "c", "y", "z"]
    assert names.index("a") < min(names.index("b"), names.index("c")) and names.index("y") > names.index("c")


def test_a_node_on_the_cycle_is_named() -> None:
    model = proto(CHAIN)
    model.graph.node[0].input[0] = "b"  # one <-> two; three only hangs on
    with pytest.raises(ModelError) as caught:
        load(model)
    assert "cycle" in caught.value.what and ("'one'" in str(caught.value) or "'two'" in str(caught.value))


def test_the_place_is_named() -> None:
    model = proto("""g (float[2] x, bool c) => (float[2] y) {
        [chooser] y = If (c) <then_branch = p () => (float[2] u) { [inner] u = Neg(gone) },
                              else_branch = q () => (float[2] v) { v = Abs(x) }>
    }""")
    with pytest.raises(ModelError) as caught:
        load(model)
    assert "'gone'" in caught.value.what
    assert caught.value.where is not None
    assert "node 'chooser' (If)" in caught.value.where and "node 'inner' (Neg)" in caught.value.where


@pytest.mark.parametrize("depth", [3, 5])
def test_depth_limit(depth: int) -> None:
    info = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [], [info])
    for _ in range(depth - 1):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], [info])
    graph.input.add(name="x").type.tensor_type.elem_type = 1
    graph.input.add(name="c").type.tensor_type.elem_type = 9
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    load(model, limits=Limits(max_depth=depth))
    with pytest.raises(ResourceError, match="nest deeper"):
        load(model, limits=Limits(max_depth=depth - 1))


def test_messages_are_counted_on_the_wire() -> None:
    """The exact count agrees with a walk over the parsed message; the rough one is never below."""
    model = proto("""g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
        y = If (c) <then_branch = p () => (float[2] u) { u = Add(x, w) },
                    else_branch = q () => (float[2] v) { v = Abs(x) }>
    }""")
    content, kind = model.SerializeToString(), onnx.ModelProto.DESCRIPTOR
    exact = _messages(content, 0, len(content), kind, 0, 10**9)
    assert exact == _walk(model)
    assert _messages(content, 0, len(content), kind, 64, 10**9) >= exact


def _walk(message: object) -> int:
    count = 1
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None:
            count += sum(map(_walk, value)) if field.is_repeated else _walk(value)
    return count


def test_large_weights_do_not_count() -> None:
    model = proto("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph.initializer.add(name="w", data_type=3, dims=[5 << 20], raw_data=bytes(5 << 20))
    check_unfolding(model.SerializeToString(), "here", Limits(max_nodes=10))


def test_what_onnx_ir_cannot_hold_survives_cloning() -> None:
    model = proto("g (float[4] x) => (float[4] y) { k = Constant() y = Add(x, k) }", **{"ai.onnx.ml": 3})
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(helper.make_tensor("v", 1, [1], [5.0]))
    sparse.indices.CopyFrom(helper.make_tensor("i", 7, [1], [2]))
    model.graph.node[0].attribute.append(helper.make_attribute("sparse_value", sparse))
    entry = helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, []))
    model.graph.node.append(
        helper.make_node("ZipMap", ["x"], ["m"], domain="ai.onnx.ml", classlabels_int64s=[7])
    )
    model.graph.output.append(helper.make_value_info("m", helper.make_sequence_type_proto(entry)))
    out = to_proto(load(model).clone())
    assert out.graph.output[1] == model.graph.output[1]
    assert out.graph.node[0].attribute[0] == model.graph.node[0].attribute[0]


@pytest.mark.slow
def test_every_backend_case_survives_the_round_trip() -> None:
    """Nothing valid is refused, and no node, initializer, input or output is lost or changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the cases overflows here and there
        cases = [case for case in collect_testcases(None) if case.model is not None]
    assert len(cases) > 1000
    for case in cases:
        loaded = load(case.model)
        check(loaded)
        check(loaded.clone())
        out = to_proto(loaded)
        assert abs(serialized_size(loaded) - out.ByteSize()) < 256, case.name
        for field in ("initializer", "input", "output"):
            assert getattr(out.graph, field) == getattr(case.model.graph, field), case.name
        assert list(map(_node, out.graph.node)) == list(map(_node, case.model.graph.node)), case.name


def _node(node: onnx.NodeProto) -> bytes:
    same = onnx.NodeProto()
    same.CopyFrom(node)
    if not same.domain:
        same.ClearField("domain")
    return same.op_type.encode() if any(a.HasField("g") for a in same.attribute) else same.SerializeToString()


def test_check_finds_what_passes_could_break() -> None:
    def broken(edit: str) -> ir.Model:
        model = load(
            proto("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = Add(x, w) y = Relu(t) }")
        )
        add, relu = model.graph
        match edit:
            case "name":
                add.outputs[0].name = "x"
            case "order":
                model.graph.remove(add)
                model.graph.append(add)
            case "foreign":
                relu.replace_input_with(0, ir.Value(name="t"))
            case "output":
                model.graph.outputs[0] = ir.Value(name="y")
        return model

    for edit in ("name", "order", "foreign", "output"):
        with pytest.raises(ModelError):
            check(broken(edit))
    check(broken("nothing"))
