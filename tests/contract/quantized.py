"""Generated models, and the forms in which our passes quantize them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.passes import IntegerIo, PackWeights, QuantizeDynamic, QuantizePorts, QuantizeStatic
from tests.models import proto

__all__ = ["FORMS", "MODELS", "Feed", "feeds", "made", "original", "steps_of"]

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Net:
    """A graph whose undefined names are random weights of these shapes."""

    text: str
    weights: dict[str, tuple[int, ...]]


_CONV = {"w1": (32, 16, 3, 3), "b1": (32,), "w2": (32, 32, 3, 3), "b2": (32,), "w3": (32, 32, 1, 1)}
MODELS = {
    "a chain of Conv": Net(
        """g (float[1,16,16,16] x) => (float[1,32,16,16] y) {
        a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)  b = Conv<pads = [1,1,1,1]>(r, w2, b2)
        s = Relu(b)  y = Conv(s, w3) }""",
        _CONV,
    ),
    "Gemm": Net(
        """g (float[64,256] x) => (float[64,64] y) {
        a = Gemm<transB = 1>(x, w1, b1)  r = Relu(a)  y = Gemm(r, w2, b2) }""",
        {"w1": (256, 256), "b1": (256,), "w2": (256, 64), "b2": (64,)},
    ),
    "MatMul + Add": Net(
        """g (float[1,16,128] x) => (float[1,16,64] y) {
        a = MatMul(x, w1)  b = Add(a, b1)  r = Relu(b)  c = MatMul(r, w2)  y = Add(c, b2) }""",
        {"w1": (128, 256), "b1": (256,), "w2": (256, 64), "b2": (64,)},
    ),
    "a residual Add": Net(
        """g (float[1,16,16,16] x) => (float[1,32,16,16] y) {
        a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)  b = Conv<pads = [1,1,1,1]>(r, w2, b2)
        s = Add(b, r)  t = Relu(s)  y = Conv(t, w3) }""",
        _CONV,
    ),
    "Concat": Net(
        """g (float[1,16,16,16] x) => (float[1,32,16,16] y) {
        a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)  b = Conv<pads = [1,1,1,1]>(r, w2, b2)
        c = Concat<axis = 1>(r, b)  y = Conv(c, w4) }""",
        _CONV | {"w4": (32, 64, 1, 1)},
    ),
    "pooling": Net(
        """g (float[1,16,16,16] x) => (float[1,10] y) {
        a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)
        p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
        b = Conv<pads = [1,1,1,1]>(p, w2, b2)  q = AveragePool<kernel_shape = [2,2], strides = [2,2]>(b)
        g1 = GlobalAveragePool(q)  f = Flatten(g1)  y = Gemm<transB = 1>(f, w5, b5) }""",
        _CONV | {"w5": (10, 32), "b5": (10,)},
    ),
    "gathered rows": Net(
        """g (int64[1,8] i) => (float[1,8,32] y) { e = Gather(table, i)  y = MatMul(e, w) }""",
        {"table": (4096, 128), "w": (128, 32)},
    ),
}


def feeds(name: str, count: int, seed: int = 0) -> list[Feed]:
    """Inputs of a model, by its declaration."""
    [info] = proto(MODELS[name].text).graph.input
    shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
    rngs = [np.random.default_rng((seed, number)) for number in range(count)]
    if info.type.tensor_type.elem_type == onnx.TensorProto.INT64:
        return [{info.name: rng.integers(0, 4096, shape)} for rng in rngs]
    return [{info.name: rng.normal(size=shape).astype(np.float32)} for rng in rngs]


def original(name: str) -> onnx.ModelProto:
    """The float model."""
    net, rng = MODELS[name], np.random.default_rng(0)
    source = proto(net.text, opset=21)
    read = {value for node in source.graph.node for value in node.input}
    for weight, shape in net.weights.items():
        if weight in read:
            spread = np.sqrt(np.prod(shape[1:]) or 1) if weight != "table" else 1.0
            array = (rng.normal(size=shape) / spread).astype(np.float32)
            source.graph.initializer.append(onnx.numpy_helper.from_array(array, weight))
    return source


def _static(model: ir.Model, calibration: Calibration) -> None:
    QuantizeStatic(calibration)(model)
    QuantizePorts(calibration)(model)


def _dynamic(model: ir.Model, calibration: Calibration) -> None:
    QuantizeDynamic()(model)
    PackWeights()(model)
    QuantizePorts(calibration)(model)


def _packed(model: ir.Model, calibration: Calibration) -> None:
    PackWeights()(model)
    QuantizePorts(calibration)(model)


def _both(model: ir.Model, calibration: Calibration) -> None:
    QuantizeStatic(calibration, correct_bias=True)(model)
    PackWeights()(model)
    QuantizePorts(calibration)(model)


def _integer(model: ir.Model, calibration: Calibration) -> None:
    _both(model, calibration)
    IntegerIo()(model)


FORMS: dict[str, Callable[[ir.Model, Calibration], None]] = {
    "static": _static,
    "dynamic": _dynamic,
    "packed": _packed,
    "static and packed": _both,
    "integer ports": _integer,
}


@functools.cache
def made(name: str, form: str) -> onnx.ModelProto:
    """A model in a form; every output has a quantizer of its own."""
    model = ir.from_proto(original(name))
    FORMS[form](model, calibrate(ir.from_proto(original(name)), feeds(name, 16)))
    message: onnx.ModelProto = ir.to_proto(model)
    return message


def steps_of(model: onnx.ModelProto) -> dict[str, float]:
    """Output -> the real size of one step of the quantizer that it comes from; 1 for integers themselves."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    found = {}
    for info in model.graph.output:
        node = producers[info.name]
        assert node.op_type in ("DequantizeLinear", "QuantizeLinear"), node.op_type
        found[info.name] = float(constants[node.input[1]]) if node.op_type == "DequantizeLinear" else 1.0
    return found
