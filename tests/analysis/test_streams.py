"""Streams: scaled by random factors, outputs of onnxruntime stay; other couplings of channels are none."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.shapes import infer
from onnxslim.analysis.streams import find_streams
from onnxslim.model import edit
from onnxslim.ops.registry import all_specs
from tests.models import proto, run

RNG = np.random.default_rng(0)

# text, shapes of the weights, channels of the streams
GRAPHS = {
    "convolutions": (
        """g (float[1,3,8,8] x) => (float[1,4,6,6] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = LeakyRelu(a)  p = MaxPool <kernel_shape=[3,3]> (r)
            y = Conv (p, w2) }""",
        {"w1": (5, 3, 3, 3), "b1": (5,), "w2": (4, 5, 1, 1)},
        [5],
    ),
    "groups and a depthwise filter": (
        """g (float[1,4,6,6] x) => (float[1,6,6,6] y) {
            a = Conv <group=2> (x, w1, b1)  d = Conv <group=6, pads=[1,1,1,1]> (a, w2, b2)  r = Relu(d)
            y = Conv <group=3> (r, w3) }""",
        {"w1": (6, 2, 1, 1), "b1": (6,), "w2": (6, 1, 3, 3), "b2": (6,), "w3": (6, 2, 1, 1)},
        [6],
    ),
    "transposed convolutions": (
        """g (float[1,4,5,5] x) => (float[1,6,5,5] y) {
            a = ConvTranspose <group=2> (x, w1, b1)  r = Relu(a)  y = ConvTranspose <group=2> (r, w2) }""",
        {"w1": (4, 3, 1, 1), "b1": (6,), "w2": (6, 3, 1, 1)},
        [6],
    ),
    "a residual sum is one stream": (
        """g (float[1,3,4,4] x) => (float[1,2,1,1] y) {
            a = Conv (x, w1, b1)  r = Relu(a)  m = Conv (r, w2)  s = Add(m, r)  p = PRelu(s, slope)
            q = GlobalAveragePool(p)  y = Conv (q, w3) }""",
        {"w1": (5, 3, 1, 1), "b1": (5,), "w2": (5, 5, 1, 1), "slope": (5, 1, 1), "w3": (2, 5, 1, 1)},
        [5],
    ),
    "matrices": (
        """g (float[2,7,3] x) => (float[2,7,4] y) {
            a = MatMul(x, w1)  b = Add(a, b1)  c = Mul(b, k)  r = Relu(c)  y = MatMul(r, w2) }""",
        {"w1": (3, 6), "b1": (6,), "k": (1, 1, 6), "w2": (6, 4)},
        [6],
    ),
    "Gemm, one side transposed": (
        """g (float[2,3] x) => (float[2,4] y) {
            a = Gemm <transB=1, alpha=0.5> (x, w1, b1)  r = Max(a, lower)  y = Gemm(r, w2, b2) }""",
        {"w1": (6, 3), "b1": (6,), "lower": (1, 6), "w2": (6, 4), "b2": (1, 4)},
        [6],
    ),
    "a normalization in front": (
        """g (float[2,5,6] x) => (float[2,5,4] y, float[2,5,3] z) {
            n = LayerNormalization(x, s, b)  y = MatMul(n, w1)  z = MatMul(n, w2) }""",
        {"s": (6,), "b": (6,), "w1": (6, 4), "w2": (6, 3)},
        [6],
    ),
    "instance normalization": (
        """g (float[2,3,5,5] x) => (float[2,2,5,5] y) {
            n = InstanceNormalization(x, s, b)  r = Relu(n)  y = Conv(r, w) }""",
        {"s": (3,), "b": (3,), "w": (2, 3, 1, 1)},
        [3],
    ),
}

NONE = {
    "not homogeneous": "a = MatMul(x, w1)  r = Sigmoid(a)  y = MatMul(r, w2)",
    "a softmax reads it too": "a = MatMul(x, w1)  y = MatMul(a, w2)  z = Softmax(a)",
    "a sum with one number": "a = MatMul(x, w1)  r = Add(a, one)  y = MatMul(r, w2)",
    "a weight that is read twice": "a = MatMul(x, w1)  y = MatMul(a, w2)  v = Neg(w2)  z = MatMul(x, v)",
    "a sum with an input": "a = MatMul(x, w1)  r = Add(a, x)  y = MatMul(r, w2)",
    "a branch reads it": """a = MatMul(x, w1)  y = MatMul(a, w2)
        z = If(c) <then_branch = t () => (float[2,4] u) { u = Neg(a) },
                   else_branch = f () => (float[2,4] u) { u = Abs(a) }>""",
}


def built(text: str, shapes: dict[str, tuple[int, ...]]) -> ir.Model:
    source = proto(text)
    for name, shape in shapes.items():
        array = RNG.standard_normal(shape).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


@pytest.mark.parametrize("case", GRAPHS.values(), ids=GRAPHS)
def test_outputs_stay_whatever_the_channels_are_multiplied_by(case) -> None:
    text, shapes, channels = case
    model = built(text, shapes)
    streams = find_streams(model.graph, infer(model))
    assert [stream.channels for stream in streams] == channels
    x = model.graph.inputs[0]
    feed = {"x": RNG.standard_normal(tuple(x.shape.numpy())).astype(np.float32)}
    names = [value.name for stream in streams for value, _ in stream.values]
    graph = model.clone()
    graph.graph.outputs.extend(v for n in graph.graph for v in n.outputs if v.name in names)
    before = run(graph, feed)
    for stream in streams:
        factors = RNG.uniform(0.3, 3.0, stream.channels)
        for part in stream.parts:
            own = graph.graph.initializers[part.value.name]  # a weight may have a stream on both sides
            content = own.const_value.numpy().reshape(part.view)
            along = factors.reshape(part.factors)
            scaled = content / along if part.divides else content * along
            scaled = scaled.astype(np.float32).reshape(part.value.shape.numpy())
            edit.replace_initializer(own, scaled)
    after = run(graph, feed)
    count = len(model.graph.outputs)
    for one, other in zip(before[:count], after[:count], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    for one, other in zip(before[count:], after[count:], strict=True):  # and the values themselves do not
        assert not np.allclose(one, other, rtol=1e-2)


@pytest.mark.parametrize("body", NONE.values(), ids=NONE)
def test_other_couplings_are_left_alone(body: str) -> None:
    extra = ", float[2,4] z" if "z =" in body else ""
    inputs = "float[2,4] x, bool c" if "If(c)" in body else "float[2,4] x"
    shapes = {"w1": (4, 4), "w2": (4, 4)} | ({"one": ()} if "one" in body else {})
    model = built(f"g ({inputs}) => (float[2,4] y{extra}) {{ {body} }}", shapes)
    assert find_streams(model.graph, infer(model)) == []


def test_an_unknown_number_of_channels_is_no_stream() -> None:
    model = built("g (float[2,n] x) => (float[2,n] y) { a = Relu(x)  y = Neg(a) }", {})
    assert find_streams(model.graph, infer(model)) == []


HOMOGENEOUS = sorted(
    name for (domain, name), spec in all_specs().items() if spec.homogeneous is not None and not domain
)
ATTRIBUTES = {
    "MaxPool": {"kernel_shape": [2, 2]},
    "AveragePool": {"kernel_shape": [2, 2]},
    "LpPool": {"kernel_shape": [2, 2]},
    "Resize": {"mode": "linear"},
}


@pytest.mark.parametrize("op_type", HOMOGENEOUS)
def test_declared_homogeneous_operators_are(op_type: str) -> None:
    """Channels of the declared inputs times powers of two: those of the output, times the same."""
    arity = 2 if op_type in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu") else 1
    arrays = [RNG.standard_normal((2, 3, 4, 4)).astype(np.float32) for _ in range(arity)]
    names = [f"i{k}" for k in range(arity)]
    if op_type in ("Resize", "Upsample"):
        arrays.append(np.array([1, 1, 2, 2], np.float32))
        names += ["", "scales"] if op_type == "Resize" else ["scales"]
    node = onnx.helper.make_node(op_type, names, ["y"], **ATTRIBUTES.get(op_type, {}))
    given = [name for name in names if name]
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape)
        for name, array in zip(given, arrays, strict=True)
    ]
    graph = onnx.helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    opset = onnx.helper.make_opsetid("", 9 if op_type == "Upsample" else 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    spec = all_specs()["", op_type]
    assert spec.homogeneous is not None
    chosen = {names[i] for i in spec.homogeneous(next(iter(ir.from_proto(model).graph)))}
    factors = np.array([0.25, 1.0, 8.0], np.float32).reshape(3, 1, 1)
    feed = dict(zip(given, arrays, strict=True))
    scaled = {name: array * factors if name in chosen else array for name, array in feed.items()}
    np.testing.assert_allclose(run(model, scaled)[0], run(model, feed)[0] * factors, rtol=1e-6)
