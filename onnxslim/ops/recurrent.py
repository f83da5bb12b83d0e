"""Recurrent layers."""

from __future__ import annotations

from functools import partial

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Expand
from onnxslim.ops.attributes import int_of
from onnxslim.ops.coupling import Axes
from onnxslim.ops.macs import dims_of, product
from onnxslim.ops.recurrent_steps import gru_steps, lstm_steps, rnn_steps
from onnxslim.ops.spec import OpSpec, QuantRole, ShapeOf

__all__ = ["SPECS", "recurrence_of"]


def _gates(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """Each step multiplies the input with W and the state with R, for every direction and batch element.

    Shapes: X ``[steps, batch, in]`` (any order of the first two), W ``[directions, gates, in]``,
    R ``[directions, gates, hidden]``.  Spec: https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    data, weight, recurrence = (dims_of(node, index, shape_of) for index in range(3))
    steps = None if data is None else product(data[:2])
    sizes = product(weight), product(recurrence)
    return None if steps is None or None in sizes else steps * sum(size or 0 for size in sizes)


def _couple(node: ir.Node, axes: Axes, *, gates: int) -> None:
    """Hidden units, alike in all gates and both directions, whose tensors they share.

    X ``[steps, batch, in]``, W ``[directions, gates * hidden, in]``, R
    ``[directions, gates * hidden, hidden]``, B ``[directions, 2 * gates * hidden]``, states
    ``[directions, batch, hidden]``, peepholes ``[directions, 3 * hidden]``, Y
    ``[steps, directions, batch, hidden]``; with ``layout`` 1 the batch comes first in X, Y and the states.
     Spec: https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    data, weight, recurrence = node.inputs[:3]
    assert data is not None and weight is not None and recurrence is not None
    hidden = axes.sums(2, 2)
    axes.attribute("hidden_size", hidden)
    axes.equal(axes.of(data, 2), axes.sums(1, 2))
    for made in (axes.channels(weight, 1), axes.of(recurrence, 1)):
        axes.equal(made, axes.times((axes.fixed(gates, "gates"), hidden)))
    rest = dict(enumerate(node.inputs))
    for index, copies in ((3, 2 * gates), (7, 3)):
        stored = rest.get(index)
        if stored is not None:
            axes.equal(axes.of(stored, 1), axes.times((axes.fixed(copies, "gates"), hidden)))
    first = int_of(node, "layout", 0) == 1
    batch = axes.of(data, 0 if first else 1)
    states = [rest.get(index) for index in (5, 6)]
    for value in (*states, *node.outputs[1:]):
        if value is not None and value.name:
            axes.equal(axes.of(value, 2), hidden)
            axes.equal(axes.of(value, 0 if first else 1), batch)
    output = node.outputs[0] if node.outputs else None
    if output is not None and output.name:
        axes.equal(axes.of(output, 3), hidden)
        axes.equal(axes.of(output, 0 if first else 2), batch)
        axes.equal(axes.of(output, 1 if first else 0), axes.of(data, 1 if first else 0))


def _recurrent(op_type: str, kernel: str | None, gates: int, expand: Expand) -> OpSpec:
    couple = partial(_couple, gates=gates)
    return OpSpec(op_type=op_type, macs=_gates, expand=expand, couple=couple, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: 1, bias=3, kernel=kernel))  # fmt: skip


_KINDS = {"LSTM": 4, "GRU": 3, "RNN": 1}  # and their gates

SPECS = (
    _recurrent("LSTM", "DynamicQuantizeLSTM", _KINDS["LSTM"], lstm_steps),
    _recurrent("GRU", None, _KINDS["GRU"], gru_steps),
    _recurrent("RNN", None, _KINDS["RNN"], rnn_steps),
)


def recurrence_of(node: ir.Node) -> int:
    """The gates of a layer that hands its state from step to step, with steps first; of other nodes 0.

    Example:
        >>> recurrence_of(ir.node("GRU", [ir.Value(name=name) for name in "xwr"]))
        3
    """
    known = node.domain in ("", "ai.onnx") and len(node.inputs) > 2 and not int_of(node, "layout", 0)
    return _KINDS.get(node.op_type, 0) if known else 0
