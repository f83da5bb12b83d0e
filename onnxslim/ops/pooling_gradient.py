"""Gradients of pooling, with every form of padding."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp, like_shape
from onnxslim.ops.attributes import int_of, ints_of
from onnxslim.ops.axis_maps import multiplied
from onnxslim.ops.conv_gradient import Window, window_of
from onnxslim.ops.spec import Array
from onnxslim.ops.terms import Term

__all__ = ["RULES"]


def _window(node: ir.Node, tape: Tape) -> Window:
    kernel = tuple(ints_of(node, "kernel_shape") or ())
    return window_of(node, kernel, tape.sizes(tape.x(), 2), tape.sizes(tape.y(), 2))


def _covered(window: Window, axis: int) -> Array:
    """``[outputs, inputs]``: 1 where the window at an output holds an input."""
    found = np.zeros((window.outputs[axis], window.inputs[axis]))
    for place in range(window.outputs[axis]):
        first = place * window.strides[axis] - window.begins[axis]
        for element in range(window.kernel[axis]):
            at = first + element * window.dilations[axis]
            if 0 <= at < window.inputs[axis]:
                found[place, at] = 1
    return found


def _padded_count(window: Window, axis: int) -> Array:
    """Positions in each window, those of the padding included, but none behind it."""
    last = window.inputs[axis] + window.ends[axis]
    firsts = np.arange(window.outputs[axis]) * window.strides[axis] - window.begins[axis]
    elements = firsts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
    return np.asarray((elements < last).sum(1))


def _spread(term: Term, window: Window, *, padded: bool | None = None) -> Term:
    """What stands at an output, at all inputs of its window; divided by their number unless that is None."""
    rank = len(window.kernel) + 2
    for axis in range(rank - 2):
        matrix = _covered(window, axis)
        if padded is not None:
            count = _padded_count(window, axis) if padded else matrix.sum(1)
            matrix = matrix / np.maximum(count, 1)[:, None]
        term = multiplied(term, rank, axis + 2, matrix)
    return term


def _average(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """The mean over a window is that over its rows, then over its columns.

    Spec: https://onnx.ai/onnx/operators/onnx__AveragePool.html
    """
    padded = bool(int_of(node, "count_include_pad", 0))
    return {0: _spread(tape.dy(), _window(node, tape), padded=padded)}


def _max(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """To the first of the largest. Spec: https://onnx.ai/onnx/operators/onnx__MaxPool.html"""
    x, dy = tape.x(), tape.dy()
    if not tape.reads():
        return {}
    if int_of(node, "storage_order", 0):
        raise Undifferentiable("columns first")
    indices = tape.further(1, ir.DataType.INT64).reshape([-1])
    flat = x.like(0.0).expand(x.then("Size", dtype=ir.DataType.INT64).unsqueeze([0]))
    added = flat.then("ScatterElements", indices, dy.reshape([-1]), axis=0, reduction="add")
    return {0: like_shape(tape, added, x)}


def _power(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    x, y, dy, order = tape.x(), tape.y(), tape.dy(), int_of(node, "p", 2)
    zero = y.equals(0.0)
    root = zero.choose(0.0, dy * zero.choose(1.0, y).then("Pow", 1.0 - order))
    length = x.then("Abs").then("Pow", order - 1.0)
    return {0: x.then("Sign") * length * _spread(root, _window(node, tape))}


def _positions(tape: Tape) -> list[int]:
    return list(range(2, len(tape.dims(tape.x()))))


def _global_average(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    count = np.prod(tape.sizes(tape.x(), 2), dtype=np.int64)
    return {0: (tape.dy() * (1 / max(int(count), 1))).expand(tape.x().shape())}


def _global_max(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Equal extremes share."""
    x, y = tape.x(), tape.y()
    chosen = x.equals(y).cast(x.dtype)
    return {0: chosen * (tape.dy() / chosen.sum(_positions(tape), keep=True))}


def _global_power(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    x, y, dy, order = tape.x(), tape.y(), tape.dy(), int_of(node, "p", 2)
    zero = y.equals(0.0)
    root = zero.choose(0.0, dy * zero.choose(1.0, y).then("Pow", 1.0 - order))
    return {0: x.then("Sign") * x.then("Abs").then("Pow", order - 1.0) * root}


RULES: Mapping[str, Vjp] = MappingProxyType(
    {
        "AveragePool": _average,
        "MaxPool": _max,
        "LpPool": _power,
        "GlobalAveragePool": _global_average,
        "GlobalMaxPool": _global_max,
        "GlobalLpPool": _global_power,
    }
)
