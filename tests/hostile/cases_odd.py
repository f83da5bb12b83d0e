"""Valid models, however odd: to be kept with equal outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.corpus import kept, survived
from tests.models import proto

BRANCH = """g (float[2] x, bool c) => (float[2] y) {
    t = Abs(x)
    y = If (c) <then_branch = p () => (float[2] u) { u = Neg(t) },
                else_branch = q () => (float[2] v) { v = Relu(x) }>
}"""


@kept
def unsorted_nodes(folder: Path) -> onnx.ModelProto:
    return proto("g (float[2] x) => (float[2] y) { y = Abs(b) b = Neg(a) a = Relu(x) }")


@kept
def branch_before_what_it_uses(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    return model


@kept
def output_listed_twice(folder: Path) -> onnx.ModelProto:
    return proto("g (float[2] x) => (float[2] y, float[2] y) { t = Identity(x) y = Relu(t) }")


@kept
def input_as_output(folder: Path) -> onnx.ModelProto:
    return proto("g (float[2] x) => (float[2] x, float[2] y) { y = Identity(x) }")


@kept
def initializer_as_output(folder: Path) -> onnx.ModelProto:
    return proto("g (float[2] x) => (float[2] w, float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")


@kept
def constant_as_output(folder: Path) -> onnx.ModelProto:
    return proto(
        """g (float[2] x) => (float[2] k, float[2] y) {
        k = Constant<value_floats = [1.0, 2.0]>() y = Add(x, k)
    }"""
    )


@kept
def unused_inputs(folder: Path) -> onnx.ModelProto:
    return proto("g (float[2] x, float[3] unused, bool also) => (float[2] y) { y = Relu(x) }")


@kept
def unused_initializer(folder: Path) -> onnx.ModelProto:
    return proto("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Relu(x) }")


@kept
def default_that_callers_may_override(folder: Path) -> onnx.ModelProto:
    return proto("g (float[2] x, float[2] w = {3, -4}) => (float[2] y) { t = Relu(w) y = Add(x, t) }")


@kept
def initializers_among_the_inputs_of_ir_3(folder: Path) -> onnx.ModelProto:
    model = proto(
        "g (float[2] x, float[2] w = {3, -4}) => (float[2] y) { t = Relu(w) y = Add(x, t) }", ir_version=3
    )
    return model


@kept
def old_operators(folder: Path) -> onnx.ModelProto:
    return proto(
        """g (float[1, 2, 3] x, float[2] s = {1, 2}, float[2] b = {3, 4}, float[2] m = {0, 1},
               float[2] v = {1, 2})
            => (float[1, 2, 3] y) {
            t = BatchNormalization(x, s, b, m, v)
            u = Dropout<ratio = 0.5>(t) y = Relu(u)
        }""",
        opset=7,
        ir_version=3,
    )


@kept
def names_in_unicode(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) { t = Relu(x) y = Neg(t) }")
    for old, new in {"x": "入力 /:%s{}", "t": "…🙂\u200f", "y": "Ausgang 'ß'"}.items():
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        for info in (*model.graph.input, *model.graph.output):
            info.name = new if info.name == old else info.name
    return model


@kept
def names_that_look_like_ours(folder: Path) -> onnx.ModelProto:
    return proto("g (float[2] val_0) => (float[2] val_1) { val_2 = Identity(val_0) val_1 = Relu(val_2) }")


@survived  # onnxruntime wants them unique
def nodes_of_one_name(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) { t = Relu(x) y = Neg(t) }")
    for node in model.graph.node:
        node.name = "same"
    return model


@kept
def no_graph_name(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph.name = ""
    return model


@kept
def optional_inputs_left_out(folder: Path) -> onnx.ModelProto:
    return proto('g (float[4] x) => (float[4] y) <float h = {0.5}> { t = Clip(x, "", h) y = Clip(t) }')


@kept
def outputs_left_out(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2, 1, 1] x) => (float[1, 1, 1] h)
        <float[1, 3, 1] w = {1, 2, 3}, float[1, 3, 1] r = {4, 5, 6}> {
            "", h = GRU<hidden_size = 1>(x, w, r)
        }""")


@kept
def split_with_dead_outputs(folder: Path) -> onnx.ModelProto:
    return proto("g (float[6] x) => (float[2] b) <int64[3] s = {2, 2, 2}> { a, b, c = Split(x, s) }")


@kept
def dimensions_of_minus_one(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = -1
    return model


@kept
def dimensions_with_odd_names(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[N, M, 2] x) => (float[N, M, 2] y) { y = Relu(x) }")
    for info in (*model.graph.input, *model.graph.output):
        dims = info.type.tensor_type.shape.dim
        dims[0].dim_param, dims[1].dim_param = "?", "floor(a / 2) + __import__('os')"
    return model


@kept
def rank_unknown(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


@kept
def stale_declaration_of_an_initializer(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = Neg(w) y = Add(x, t) }")
    model.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    model.graph.value_info[-1].type.tensor_type.shape.dim[0].dim_param = "old"
    return model


@kept
def tensors_without_elements(folder: Path) -> onnx.ModelProto:
    return proto(
        "g (float[2] x) => (float[2] y, float[0, 3] e) <float[0] w = {}, float[0, 3] v = {}> "
        "{ y = Concat<axis = 0>(x, w) e = Relu(v) }"
    )


@kept
def signed_zeros_and_nans(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[4] x) => (float[4] y, float[4] z) { y = Div(x, a) z = Div(x, b) }")
    zeros = np.array([0.0, 0.0, np.nan, np.inf], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(zeros, "a"))
    model.graph.initializer.append(numpy_helper.from_array(-zeros, "b"))
    return model


@kept
def four_bit_weights(folder: Path) -> onnx.ModelProto:
    model = proto(
        """g (float[1, 4] x) => (float[1, 3] y) <float s = {0.5}> {
            w = DequantizeLinear(q, s) y = MatMul(x, w)
        }""",
        opset=21,
    )
    data = bytes([0x21, 0xF3, 0x87, 0x65, 0xA9, 0xCB])
    model.graph.initializer.append(
        TensorProto(name="q", data_type=TensorProto.INT4, dims=[4, 3], raw_data=data)
    )
    return model


@kept
def half_floats_in_typed_data(folder: Path) -> onnx.ModelProto:
    model = proto("g (float16[3] x) => (float16[3] y) { y = Add(x, w) }")
    fields = {"data_type": TensorProto.FLOAT16, "dims": [3], "int32_data": [0x3C00, 0x8000, 0x7BFF]}
    model.graph.initializer.append(TensorProto(name="w", **fields))
    return model


@kept
def constants_in_every_form(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] x) => (float[2] y, int64[2] i) {
        a = Constant<value_float = 2.0>() b = Constant<value_floats = [1.0, -1.0]>()
        c = Constant<value_int = 3>() d = Constant<value_ints = [4, 5]>()
        e = Constant<value = float[2] {0, 1}>()
        t = Mul(x, a) u = Add(t, b) y = Add(u, e) i = Add(c, d)
    }""")


@kept
def sparse_constant(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[4] x) => (float[4] y) { k = Constant() i = Identity(x) y = Add(i, k) }")
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(helper.make_tensor("v", TensorProto.FLOAT, [2], [5.0, -6.0]))
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [2], [0, 3]))
    model.graph.node[0].attribute.append(helper.make_attribute("sparse_value", sparse))
    return model


@kept
def constant_strings(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] x) => (string[2] s, string[2] t, float[2] y) {
        s = Constant<value_strings = ["a", "ü"]>() u = Constant<value = string[2] {"b", ""}>()
        t = Identity(u) y = Relu(x)
    }""")


@kept
def sequences(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] x) => (float[2] y, seq(float[2]) s) {
        a = Neg(x) s = SequenceConstruct(x, a) i = Constant<value_int = 1>() y = SequenceAt(s, i)
    }""")


@kept
def optionals(folder: Path) -> onnx.ModelProto:
    return proto(
        """g (float[2] x) => (float[2] y, bool b) {
            o = Optional(x) b = OptionalHasElement(o) y = OptionalGetElement(o)
        }"""
    )


@kept
def maps(folder: Path) -> onnx.ModelProto:
    node = helper.make_node("ZipMap", ["t"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[7, 8])
    entry = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    output = helper.make_value_info("y", helper.make_sequence_type_proto(entry))
    model = proto(
        "g (float[3, 2] x) => (float[3, 2] y) { i = Identity(x) t = Softmax(i) }", **{"ai.onnx.ml": 3}
    )
    model.graph.node.append(node)
    model.graph.output[0].CopyFrom(output)
    return model


@kept
def branches_ten_deep(folder: Path) -> onnx.ModelProto:
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [], [info])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "h", [], [info])
    for _ in range(10):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=other)
        graph = helper.make_graph([node], "g", [], [info])
    model = proto("g (float[2] x, bool c) => (float[2] y) { y = Relu(x) }")
    model.graph.node[0].CopyFrom(graph.node[0])
    return model


@kept
def branches_whose_names_repeat(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <then_branch = p () => (float[2] y) { a = Neg(x) y = Abs(a) },
                    else_branch = q () => (float[2] y) { a = Relu(x) y = Sqrt(a) }>
    }""")


@kept
def branch_on_a_constant(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] x) => (float[2] y) <bool c = {1}> {
        t = Abs(x)
        y = If (c) <then_branch = p () => (float[2] u) { a = Neg(t) u = Exp(a) },
                    else_branch = q () => (float[2] v) { a = Relu(x) v = Sqrt(a) }>
    }""")


@kept
def branch_whose_node_names_are_the_outer_ones(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] x) => (float[2] y) <bool c = {1}> {
        [one] t = Abs(x)
        [two] y = If (c) <then_branch = p () => (float[2] u) { [one] a = Neg(t) [two] u = Exp(a) },
                          else_branch = q () => (float[2] v) { [one] v = Relu(x) }>
    }""")


@kept
def loop(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] x) => (float[2] y, float[3, 2] z) <int64 n = {3}, bool c = {1}> {
        y, z = Loop(n, c, x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] r, float[2] o)
            { on = Identity(go) k = Constant<value_float = 2.0>() r = Mul(s, k) o = Neg(r) }>
    }""")


@kept
def scan(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] s0, float[3, 2] x) => (float[2] s, float[3, 2] y) {
        s, y = Scan<num_scan_inputs = 1, body = b (float[2] a, float[2] e) => (float[2] r, float[2] o)
            { r = Add(a, e) o = Identity(r) }> (s0, x)
    }""")


@kept
def random_numbers_of_one_seed(folder: Path) -> onnx.ModelProto:
    return proto("""g (float[2] x) => (float[2] y) {
        a = RandomNormalLike<seed = 1.0>(x) b = RandomNormalLike<seed = 1.0>(x) z = Sub(a, a) y = Add(x, z)
    }""")


@kept
def long_documentation(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.doc_string = model.graph.node[0].doc_string = "\x1b[31m%s\n" * 1000
    model.metadata_props.add(key="license\n", value="\x00" * 100)
    return model


@kept
def chain_of_five_thousand_nodes(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[2] x) => (float[2] y) { y = Neg(t4999) }")
    chain = [helper.make_node("Neg", [f"t{i - 1}" if i else "x"], [f"t{i}"]) for i in range(5000)]
    model.graph.node.extend(chain)
    return model
