"""Models whose work is known: a small one, a convolutional one and a transformer, of equal blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper as oh

__all__ = ["FAMILIES", "cnn", "mlp", "transformer"]

_OPSET = 17


class _Graph:
    """Nodes and weights as they are added; each method returns the name of what it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scale = 1 / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
        values = (self.random.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(onnx.numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(oh.make_node(op, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def model(self, shape: tuple[int, ...], last: str) -> onnx.ModelProto:
        ends = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", "y")]
        self.nodes.append(oh.make_node("Identity", [last], ["y"], name="end"))
        graph = oh.make_graph(self.nodes, "known", ends[:1], ends[1:], self.weights)
        return oh.make_model(graph, opset_imports=[oh.make_opsetid("", _OPSET)], ir_version=9)


def mlp(depth: int, width: int = 16) -> onnx.ModelProto:
    """Some ten microseconds at depth 24."""
    graph, value = _Graph(), "x"
    for _ in range(depth):
        value = graph.node("Relu", graph.node("Gemm", value, graph.weight(width, width)))
    return graph.model((1, width), value)


def cnn(depth: int, channels: int = 32, size: int = 28) -> onnx.ModelProto:
    """Residual blocks of one 3x3 convolution each."""
    graph, value = _Graph(), "x"
    for _ in range(depth):
        found = graph.node("Conv", value, graph.weight(channels, channels, 3, 3), pads=[1, 1, 1, 1])
        value = graph.node("Add", graph.node("Relu", found), value)
    return graph.model((1, channels, size, size), value)


def transformer(depth: int, width: int = 64, steps: int = 32) -> onnx.ModelProto:
    """Blocks of attention with one head and a feed-forward part, without normalisation."""
    graph, value = _Graph(), "x"
    for _ in range(depth):
        query, key, content = (graph.node("MatMul", value, graph.weight(width, width)) for _ in range(3))
        scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 2, 1]))
        mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), content)
        value = graph.node("Add", value, mixed)
        inner = graph.node("Relu", graph.node("MatMul", value, graph.weight(width, 4 * width)))
        value = graph.node("Add", value, graph.node("MatMul", inner, graph.weight(4 * width, width)))
        value = graph.node("Tanh", value)
    return graph.model((1, steps, width), value)


# name -> what makes it at a depth, and the depth that is measured
FAMILIES: dict[str, tuple[Callable[[int], onnx.ModelProto], int]] = {
    "mlp": (mlp, 24),
    "cnn": (cnn, 20),
    "transformer": (transformer, 20),
}
