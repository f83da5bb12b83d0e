"""Edits keep a graph valid; a small reference run in onnxruntime judges."""

from __future__ import annotations

import ast
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.model.check import check
from onnxslim.model.io import load
from tests.models import bit_equal, model, proto, run

X = np.array([-1.5, 2.0], np.float32)


def test_scopes_reach_every_depth() -> None:
    nested = model("""<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
        main (float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = outer () => (float[2] u) {
                            u = If (c) <then_branch = inner () => (float[2] v) { v = Neg(x) },
                                        else_branch = other () => (float[2] w) { w = local.f(x) }> },
                        else_branch = last () => (float[2] z) { z = Abs(x) }>
        }
        <domain: "local", opset_import: ["" : 17]>
        f (a) => (b) { b = Relu(a) }""")
    assert [scope.name for scope in edit.scopes(nested)] == ["main", "outer", "inner", "other", "last", "f"]


def test_names_are_unique_over_scopes_and_functions() -> None:
    nested = model("""g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <then_branch = p () => (float[2] u) { u = Neg(x) },
                    else_branch = q () => (float[2] v) { v = Abs(x) }>
    }""")
    assert edit.unique_name(nested, "u") == "u_1"
    inner = next(iter(edit.subgraphs(nested.graph.node(0))))
    assert edit.unique_name(inner, "x") == "x_1"
    assert edit.unique_name(inner, "u") == "u_2", "the name given out before is taken"
    assert edit.unique_name(nested, "fresh") == "fresh"


@pytest.mark.parametrize(
    "content",
    [
        np.array([[1.0, -0.0], [np.nan, np.inf]], np.float32),
        np.array(7, np.int64),
        np.zeros((0, 3), np.float16),
        np.array([1.5, 2.5], ml_dtypes.bfloat16),
        np.array([-8, 7, 1], ml_dtypes.int4),
        np.array([[b"a", "ü".encode()]], object),
        np.arange(12, dtype=np.int32).reshape(3, 4).T,
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_initializer_round_trip(content: np.ndarray) -> None:
    graph = model("g (float[2] x) => (float[2] y) { y = Relu(x) }").graph
    value = edit.add_initializer(graph, content, "w")
    read = edit.constant_value(value)
    assert read is not None and bit_equal(read, content)
    assert value.shape == ir.Shape(content.shape) and value.dtype == value.const_value.dtype


def test_replacing_an_initializer_moves_shape_and_type() -> None:
    graph = model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }").graph
    value = graph.initializers["w"]
    edit.replace_initializer(value, np.zeros((3, 1), np.int8))
    assert (
        value.shape == ir.Shape([3, 1]) and value.dtype == ir.DataType.INT8 and value.const_value.name == "w"
    )
    with pytest.raises(ValueError, match="not an initializer"):
        edit.replace_initializer(graph.outputs[0], np.zeros(1))


def test_default_of_an_input_is_no_constant() -> None:
    graph = model("g (float[2] x, float[2] w = {3, 4}) => (float[2] y) { y = Add(x, w) }").graph
    assert edit.constant_value(graph.initializers["w"]) is None
    with pytest.raises(ValueError, match="graph input"):
        edit.replace_initializer(graph.initializers["w"], np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value_float = 2.5", np.array(2.5, np.float32)),
        ("value_floats = [1.0, 2.0]", np.array([1, 2], np.float32)),
        ("value_int = 3", np.array(3, np.int64)),
        ("value_ints = [4, 5]", np.array([4, 5], np.int64)),
        ('value_string = "a"', np.array(b"a", object)),
        ('value_strings = ["a", "b"]', np.array([b"a", b"b"], object)),
        ("value = int8[2] {1, 2}", np.array([1, 2], np.int8)),
        ("value = 5", None),  # an attribute of the wrong type
    ],
)
def test_constant_in_every_form(attribute: str, expected: np.ndarray | None) -> None:
    graph = model(f"g (float[2] x) => (float[2] y) {{ k = Constant<{attribute}>() y = Relu(x) }}").graph
    read = edit.constant_value(graph.node(0).outputs[0])
    assert (read is None) if expected is None else bit_equal(read, expected)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2] x) => (float[2] y) { t = Relu(x) y = Identity(t) }",
        "g (float[2] x) => (float[2] y) { y = Identity(x) }",
        "g (float[2] x) => (float[2] t, float[2] y) { t = Relu(x) y = Identity(t) }",
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Identity(w) }",
        "g (float[2] x) => (float[2] y, float[2] y) { t = Relu(x) y = Identity(t) }",
        "g (float[2] x) => (float[2] y, float[2] z) { t = Relu(x) y = Identity(t) z = Neg(y) }",
    ],
    ids=[
        "from a node",
        "from an input",
        "from an output",
        "from an initializer",
        "listed twice",
        "used as well",
    ],
)
def test_replacing_a_graph_output(text: str) -> None:
    graph_model = model(text)
    before, names = run(graph_model, {"x": X}), [value.name for value in graph_model.graph.outputs]
    node = next(node for node in graph_model.graph if node.op_type == "Identity")
    edit.replace_uses(node.outputs[0], node.inputs[0])
    edit.remove_node(node)
    check(graph_model)
    assert [value.name for value in graph_model.graph.outputs] == names
    assert all(map(bit_equal, run(graph_model, {"x": X}), before))


def test_replacing_the_output_of_a_branch_by_an_outer_value() -> None:
    nested = model("""g (float[2] x, bool c) => (float[2] y) {
        t = Abs(x)
        y = If (c) <then_branch = p () => (float[2] u) { u = Identity(t) },
                    else_branch = q () => (float[2] v) { v = Neg(t) }>
    }""")
    branch = next(iter(edit.subgraphs(nested.graph.node(1))))
    node = branch.node(0)
    edit.replace_uses(node.outputs[0], node.inputs[0])
    edit.remove_node(node)
    check(nested)
    assert bit_equal(run(nested, {"x": X, "c": np.array(True)})[0], np.abs(X))


def test_a_used_node_is_not_removed() -> None:
    graph = model("g (float[2] x) => (float[2] y) { t = Relu(x) y = Neg(t) }").graph
    with pytest.raises(ValueError, match="still being used"):
        edit.remove_node(graph.node(0))


def test_nobody_else_assigns_const_value() -> None:
    """Assigning ``const_value`` leaves shape and type stale: ``model.edit`` is the place for it."""
    package = Path(onnxslim.__file__).parent
    allowed = {
        package / "model" / "edit.py",
        package / "model" / "protos.py",
    }  # protos: the same content elsewhere
    guilty = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if path not in allowed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "const_value" and isinstance(node.ctx, ast.Store)
    ]
    assert guilty == []


def test_many_names_of_one_hint_are_quick_to_invent() -> None:
    nested = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    names = [
        edit.unique_name(nested, "x") for _ in range(30_000)
    ]  # counting anew each time would take minutes
    assert names[-1] == "x_30000" and len(set(names)) == len(names)


def test_an_inner_graph_of_a_loaded_model_knows_all_names() -> None:
    loaded = load(
        proto("""g (float[2] x, bool c) => (float[2] y) { far = Neg(x)
            y = If (c) <then_branch = p () => (float[2] u) { u = Neg(x) },
                        else_branch = q () => (float[2] v) { v = Abs(x) }>
        }""")
    )
    inner = next(iter(edit.subgraphs(loaded.graph.node(1))))
    assert edit.unique_name(inner, "far") == "far_1" and edit.unique_name(inner, "v") == "v_1"
    assert edit.unique_name(load(loaded), "v") == "v_1", "names that came to nothing are free again"
