"""Models whose weights were exported more than once, as exporters write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh

__all__ = ["KINDS", "many", "write_large"]

Array = npt.NDArray[np.float32]

_WORDS, _WIDTH, _LAYERS, _STEPS = 4000, 128, 4, 16


class _Exporter:
    """Writes nodes and, of every use of a weight, a copy of its own."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def drawn(self, *shape: int) -> Array:
        return (self.random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    def store(self, weight: npt.NDArray[np.generic]) -> str:
        name = f"weight_{len(self.stored)}"
        self.stored.append(nh.from_array(np.ascontiguousarray(weight), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"value_{len(self.nodes)}"
        self.nodes.append(oh.make_node(op, list(inputs), [name], **attributes))
        return name

    def block(self, value: str, weights: list[Array], activation: str) -> str:
        """Attention with one head, and a feed-forward part."""
        query, key, content, out, up, down = (self.store(weight) for weight in weights)
        scores = self.node(
            "MatMul",
            self.node("MatMul", value, query),
            self.node("Transpose", self.node("MatMul", value, key), perm=[0, 2, 1]),
        )
        mixed = self.node(
            "MatMul", self.node("Softmax", scores, axis=-1), self.node("MatMul", value, content)
        )
        value = self.node("Add", value, self.node("MatMul", mixed, out))
        inner = self.node(activation, self.node("MatMul", value, up))
        return self.node("Tanh", self.node("Add", value, self.node("MatMul", inner, down)))

    def layer(self) -> list[Array]:
        square = [self.drawn(_WIDTH, _WIDTH) for _ in range(4)]
        return [*square, self.drawn(_WIDTH, 4 * _WIDTH), self.drawn(4 * _WIDTH, _WIDTH)]

    def model(self, inputs: dict[str, int], last: str, shape: list[int]) -> onnx.ModelProto:
        self.nodes.append(oh.make_node("Identity", [last], ["y"]))
        graph = oh.make_graph(
            self.nodes,
            "copies",
            [oh.make_tensor_value_info(n, onnx.TensorProto.INT64, [1, size]) for n, size in inputs.items()],
            [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
            self.stored,
        )
        return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9)


def _bert() -> onnx.ModelProto:
    """The table of words is stored again, turned, as the weight of the head."""
    e = _Exporter()
    table = e.drawn(_WORDS, _WIDTH)
    value = e.node("Gather", e.store(table), "ids")
    for _ in range(_LAYERS):
        value = e.block(value, e.layer(), "Erf")
    return e.model({"ids": _STEPS}, e.node("MatMul", value, e.store(table.T)), [1, _STEPS, _WORDS])


def _llama() -> onnx.ModelProto:
    """The same in equal layout: the head is a Gemm that turns the table itself."""
    e = _Exporter()
    table = e.drawn(_WORDS, _WIDTH)
    value = e.node("Gather", e.store(table), "ids")
    for _ in range(_LAYERS):
        value = e.block(value, e.layer(), "Sigmoid")
    flat = e.node("Reshape", value, e.store(np.array([_STEPS, _WIDTH])))
    return e.model({"ids": _STEPS}, e.node("Gemm", flat, e.store(table), transB=1), [_STEPS, _WORDS])


def _albert() -> onnx.ModelProto:
    """All layers have the same weights, each a copy."""
    e = _Exporter()
    value = e.node("Gather", e.store(e.drawn(_WORDS // 8, _WIDTH)), "ids")
    layer = e.layer()
    for _ in range(2 * _LAYERS):
        value = e.block(value, layer, "Erf")
    return e.model({"ids": _STEPS}, value, [1, _STEPS, _WIDTH])


def _towers() -> onnx.ModelProto:
    """Two encoders of equal weights over two inputs, and how alike what they say is."""
    e = _Exporter()
    table, layers = e.drawn(_WORDS // 4, _WIDTH), [e.layer() for _ in range(_LAYERS // 2)]
    ends = []
    for ids in ("left", "right"):
        value = e.node("Gather", e.store(table), ids)
        for layer in layers:
            value = e.block(value, layer, "Erf")
        ends.append(value)
    return e.model({"left": _STEPS, "right": _STEPS}, e.node("Mul", *ends), [1, _STEPS, _WIDTH])


KINDS: dict[str, Callable[[], onnx.ModelProto]] = {
    "BERT-like, tied": _bert,
    "Llama-like, tied": _llama,
    "ALBERT-like": _albert,
    "twin towers": _towers,
}


def many(count: int) -> onnx.ModelProto:
    """A chain of sums over ``count`` vectors, each of which is there twice."""
    names = ["x", *(f"v{at}" for at in range(count - 1)), "y"]
    nodes = [oh.make_node("Add", [names[at], f"w{at}"], [names[at + 1]]) for at in range(count)]
    stored = [nh.from_array(np.full(8, at // 2, np.float32), f"w{at}") for at in range(count)]
    ends = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [8]) for name in ("x", "y")]
    graph = oh.make_graph(nodes, "many", ends[:1], ends[1:], stored)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9)


def write_large(path: Path, count: int, width: int = 4096, length: int = 8192) -> None:
    """Write a model with ``count`` weights, of 128 MB each, in a file beside it; each is there twice."""
    bytes_each = 4 * width * length
    data = path.with_name(f"{path.name}.data")
    nodes, stored = [], []
    with data.open("wb") as file:
        for at in range(count):
            random = np.random.default_rng(at // 2)
            file.write(random.random(width * length, np.float32).tobytes())
            name = f"w{at}"
            tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[length, width])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", at * bytes_each), ("length", bytes_each)):
                tensor.external_data.add(key=key, value=str(value))
            stored.append(tensor)
            nodes.append(oh.make_node("Gather", [name, "ids"], [f"v{at}"]))
    nodes.append(oh.make_node("Sum", [f"v{at}" for at in range(count)], ["y"]))
    ids = oh.make_tensor_value_info("ids", onnx.TensorProto.INT64, [1])
    out = oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, width])
    graph = oh.make_graph(nodes, "large", [ids], [out], stored)
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9), path)
