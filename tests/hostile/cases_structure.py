"""Graphs that are none: names, definitions, order, operator sets."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from tests.hostile.corpus import refused
from tests.models import proto

RELU = "g (float[2] x) => (float[2] y) { y = Relu(x) }"
CHAIN = "g (float[2] x) => (float[2] y) { a = Relu(x) b = Neg(a) y = Abs(b) }"
BRANCH = """g (float[2] x, bool c) => (float[2] y) {
    t = Abs(x)
    y = If (c) <then_branch = p () => (float[2] u) { a = Neg(x) u = Relu(a) },
                else_branch = q () => (float[2] v) { v = Neg(t) }>
    z = Neg(y)
}"""


def _branch(model: onnx.ModelProto, index: int) -> onnx.GraphProto:
    return model.graph.node[1].attribute[index].g


@refused
def no_ir_version(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.ClearField("ir_version")
    return model


@refused
def negative_ir_version(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.ir_version = -1
    return model


@refused
def no_graph(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.ClearField("graph")
    return model


@refused
def no_operator_set(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    del model.opset_import[:]
    return model


@refused
def operator_set_of_a_stranger(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.opset_import[0].domain = "com.example"
    return model


@refused
def operator_set_zero(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.opset_import[0].version = 0
    return model


@refused
def operator_set_of_the_future(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.opset_import[0].version = 1 << 40
    return model


@refused
def operator_set_twice(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.opset_import.append(helper.make_opsetid("ai.onnx", 9))
    return model


@refused
def training_information(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.training_info.add().algorithm.name = "step"
    return model


@refused
def sparse_initializer(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(helper.make_tensor("i", onnx.TensorProto.INT64, [1], [2]))
    return model


@refused
def empty_input_name(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.input[0].name = ""
    return model


@refused
def empty_operator_name(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.node[0].op_type = ""
    return model


@refused
def empty_attribute_name(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.node[0].attribute.add(type=onnx.AttributeProto.INT, i=1)
    return model


@refused
def nul_in_name(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.input[0].name = model.graph.node[0].input[0] = "x\0y"
    return model


@refused
def newlines_in_name(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.node[0].name = "a\n  where: nowhere\n  try: rm -r ~"
    return model


@refused
def escape_codes_in_name(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.input[0].name = model.graph.node[0].input[0] = "\x1b[2J\x1b[31mowned"
    return model


@refused
def endless_name(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.input[0].name = model.graph.node[0].input[0] = "x" * (1 << 20)
    return model


@refused
def invalid_utf8_in_name(folder: Path) -> bytes:
    return proto(RELU).SerializeToString().replace(b"\x0a\x01x", b"\x0a\x01\xff")


@refused
def invalid_utf8_in_operator(folder: Path) -> bytes:
    return proto(RELU).SerializeToString().replace(b"Relu", b"R\xc3\x28u")


@refused
def invalid_utf8_in_documentation(folder: Path) -> bytes:
    model = proto(RELU)
    model.graph.node[0].doc_string = "ABCDEFGH"
    return model.SerializeToString().replace(b"ABCDEFGH", b"\xed\xa0\x80\xff\xfe\xfd\xfc\xfb")


@refused
def node_output_twice(folder: Path) -> onnx.ModelProto:
    model = proto(CHAIN)
    model.graph.node[1].output[0] = "a"
    return model


@refused
def same_output_twice_in_a_node(folder: Path) -> onnx.ModelProto:
    return proto("g (float[4] x) => (float[2] a) { a, a = Split(x) }", opset=11)


@refused
def graph_input_twice(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.input.append(model.graph.input[0])
    return model


@refused
def initializer_twice(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    model.graph.initializer.append(model.graph.initializer[0])
    return model


@refused
def initializer_and_node_output(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.initializer.append(helper.make_tensor("y", onnx.TensorProto.FLOAT, [2], [1, 2]))
    return model


@refused
def node_writes_graph_input(folder: Path) -> onnx.ModelProto:
    model = proto(CHAIN)
    model.graph.node[1].output[0] = "x"
    return model


@refused
def attribute_twice(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.node[0].attribute.extend([helper.make_attribute("alpha", value) for value in (1.0, 2.0)])
    return model


@refused
def undefined_input(folder: Path) -> onnx.ModelProto:
    model = proto(CHAIN)
    model.graph.node[1].input[0] = "nothing"
    return model


@refused
def undefined_output(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.output[0].name = "nothing"
    return model


@refused
def undefined_output_of_a_branch(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    _branch(model, 0).output[0].name = "nothing"
    return model


@refused
def outer_value_as_output_of_a_branch(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    _branch(model, 0).output[0].name = "x"
    return model


@refused
def value_of_the_other_branch(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    _branch(model, 1).node[0].input[0] = "a"
    return model


@refused
def outer_name_in_a_branch(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    _branch(model, 0).node[0].output[0] = _branch(model, 0).node[1].input[0] = "t"
    return model


@refused
def inner_value_used_outside(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    model.graph.node[2].input[0] = "u"
    return model


@refused
def cycle(folder: Path) -> onnx.ModelProto:
    model = proto(CHAIN)
    model.graph.node[0].input[0] = "b"
    return model


@refused
def node_that_needs_itself(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.node[0].input[0] = "y"
    return model


@refused
def branch_that_needs_its_own_result(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    _branch(model, 0).node[0].input[0] = "y"
    return model


@refused
def cycle_through_a_branch(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    _branch(model, 0).node[0].input[0] = "z"
    return model


@refused
def reference_attribute_outside_functions(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    kind = onnx.AttributeProto.FLOAT
    model.graph.node[0].attribute.add(name="alpha", ref_attr_name="beta", type=kind)
    return model


@refused
def unknown_type_of_an_input(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.input[0].type.tensor_type.elem_type = 4711
    return model


@refused
def negative_dimension_of_an_input(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -7
    return model


@refused
def default_of_another_type(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.initializer.append(helper.make_tensor("x", onnx.TensorProto.INT64, [2], [1, 2]))
    return model


@refused
def default_of_another_shape(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.initializer.append(helper.make_tensor("x", onnx.TensorProto.FLOAT, [3], [1, 2, 3]))
    return model
