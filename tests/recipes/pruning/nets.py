"""A small network whose channels are known: which are copies of others, and which do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxslim._ir import ir

__all__ = ["COPIES", "feeds", "small_net"]

COPIES = tuple(range(8, 16))  # of the first convolution: channel 8 + i is twice channel i


def small_net(seed: int = 0) -> ir.Model:
    """Conv -> Relu -> depthwise -> Relu -> Conv -> pool -> Gemm; half of the first 16 channels are copies.

    A copy carries nothing that its origin does not, through the depthwise convolution too, so it can be
    removed without any loss if those behind it are told.
    """
    random = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    first, bias = weight(16, 2, 3, 3), 0.1 * weight(16, 1)[:, 0]
    deep, deep_bias = weight(16, 1, 3, 3), 0.1 * weight(16, 1)[:, 0]
    first[8:], bias[8:] = 2 * first[:8], 2 * bias[:8]
    deep[8:], deep_bias[8:] = deep[:8], 2 * deep_bias[:8]
    weights = {
        "w1": first,
        "b1": bias,
        "w2": deep,
        "b2": deep_bias,
        "w3": weight(12, 16, 1, 1),
        "w4": weight(5, 12),
        "b4": weight(5, 1)[:, 0],
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], group=16, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"]),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def feeds(count: int, seed: int = 1) -> list[Mapping[str, Any]]:
    """Inputs for it."""
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(1, 2, 6, 6)).astype(np.float32)} for _ in range(count)]
