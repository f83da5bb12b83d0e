"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Callable

from onnxslim._ir import ir
from onnxslim.ops.macs import dims_of, product
from onnxslim.ops.spec import OpSpec, QuantRole, ShapeOf

__all__ = ["SPECS"]


def _gates(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """Each step multiplies the input with W and the state with R, for every direction and batch element.

    Shapes: X ``[steps, batch, in]`` (any order of the first two), W ``[directions, gates, in]``,
    R ``[directions, gates, hidden]``.  Spec: https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    data, weight, recurrence = (dims_of(node, index, shape_of) for index in range(3))
    steps = None if data is None else product(data[:2])
    sizes = product(weight), product(recurrence)
    return None if steps is None or None in sizes else steps * sum(size or 0 for size in sizes)


def _recurrent(op_type: str, macs: Callable[[ir.Node, ShapeOf], int | None], kernel: str | None) -> OpSpec:
    return OpSpec(op_type=op_type, macs=macs, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: 1, bias=3, kernel=kernel))  # fmt: skip


SPECS = (
    _recurrent("LSTM", _gates, "DynamicQuantizeLSTM"),
    _recurrent("GRU", _gates, None),
    _recurrent("RNN", _gates, None),
)
