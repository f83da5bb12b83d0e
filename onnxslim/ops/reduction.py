"""Reductions and running sums along axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.arithmetic import INTEGERS
from onnxslim.ops.attributes import int_of, ints_of
from onnxslim.ops.coupling import Axes, same_axes
from onnxslim.ops.movement import axes_of, given
from onnxslim.ops.reduction_gradient import RULES
from onnxslim.ops.sizes import elements_bytes
from onnxslim.ops.spec import Array, Declined, Facts, OpSpec, QuantRole

__all__ = ["SPECS"]

Inputs = Sequence[Array | None]
Evaluator = Callable[[ir.Node, Inputs], Sequence[Array]]
_SUMS = ("Sum", "L1", "L2", "LogSum", "SumSquare")  # zeros add nothing to them


def _reduce(function: Callable[..., Any]) -> Evaluator:
    """Of integers, whose order of summation does not matter."""

    def evaluate(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
        data, axes = given(inputs, 0), axes_of(node, inputs)
        if data.dtype not in INTEGERS or not data.size or not data.ndim:
            raise Declined("not certain for these types")
        if not axes and int_of(node, "noop_with_empty_axes", 0):
            return [data]
        keep = bool(int_of(node, "keepdims", 1))
        return [np.asarray(function(data, axis=axes or None, keepdims=keep), data.dtype)]

    return evaluate


def _sum(data: Array, **kwargs: Any) -> Array:
    return np.asarray(np.sum(data, dtype=data.dtype, **kwargs))


def _prod(data: Array, **kwargs: Any) -> Array:
    return np.asarray(np.prod(data, dtype=data.dtype, **kwargs))


def _bytes(node: ir.Node, inputs: Inputs) -> int | None:
    """At most the input's; an empty axis is reduced to one element."""
    return elements_bytes((max(d, 1) for d in given(inputs, 0).shape), 8)


def _reduces_nothing(node: ir.Node, facts: Facts) -> int | None:
    """Without axes and with ``noop_with_empty_axes`` the input is handed on."""
    absent = len(node.inputs) < 2 or node.inputs[1] is None
    return 0 if absent and "axes" not in node.attributes and int_of(node, "noop_with_empty_axes", 0) else None


def _couple(node: ir.Node, axes: Axes, *, sums: bool = False, averages: bool = False) -> None:
    """Reduced axes are read along, unless what is absent from them adds nothing."""
    data = node.inputs[0]
    assert data is not None
    rank = len(axes.dims(data))
    listed = node.inputs[1] if len(node.inputs) > 1 else None
    along = ints_of(node, "axes")
    if listed is not None:
        content = axes.constant(listed)
        if content is None:
            return
        along = [int(axis) for axis in content.reshape(-1)]
    reduced = {axis % rank for axis in along or ()} if rank else set()
    if not reduced and not int_of(node, "noop_with_empty_axes", 0):
        reduced = set(range(rank))
    _reduced(node, axes, reduced)
    for axis in reduced:
        if sums:
            axes.sums(0, axis)
        elif averages:
            axes.averaged(axes.of(data, axis))


def _reduced(node: ir.Node, axes: Axes, reduced: set[int]) -> None:
    """The other axes are handed on."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    keep = int_of(node, "keepdims", 1)
    kept = [axis for axis in range(len(axes.dims(data))) if keep or axis not in reduced]
    for place, axis in enumerate(kept):
        if axis not in reduced:
            axes.equal(axes.of(data, axis), axes.of(output, place))


def _picked(node: ir.Node, axes: Axes) -> None:
    """ArgMax and ArgMin: positions along one axis."""
    data = node.inputs[0]
    assert data is not None
    _reduced(node, axes, {int_of(node, "axis", 0) % len(axes.dims(data))})


def _running(node: ir.Node, axes: Axes) -> None:
    """Running sums along one axis."""
    along = None if node.inputs[1] is None else axes.constant(node.inputs[1])
    if along is not None:
        same_axes(node, axes, but=(int(along.item()),))


def _reduction(name: str, function: Callable[..., Any] | None = None, **facts: Any) -> OpSpec:
    evaluator = None if function is None else _reduce(function)
    couple = partial(_couple, sums=name in _SUMS, averages=name == "Mean")
    rule = RULES.get(f"Reduce{name}")
    return OpSpec(
        op_type=f"Reduce{name}", numpy=evaluator, output_bytes=_bytes, couple=couple, vjp=rule, **facts
    )


SPECS = (
    _reduction("Sum", _sum, identity_input=_reduces_nothing),
    _reduction("Prod", _prod, identity_input=_reduces_nothing),
    _reduction("Max", np.max, identity_input=_reduces_nothing),
    _reduction("Min", np.min, identity_input=_reduces_nothing),
    _reduction("Mean", identity_input=_reduces_nothing, quant=QuantRole()),
    *(_reduction(name) for name in ("L1", "L2", "LogSum", "LogSumExp", "SumSquare")),
    *(OpSpec(op_type=name, output_bytes=_bytes, couple=_picked, vjp=RULES.get(name))
      for name in ("ArgMax", "ArgMin")),
    *(OpSpec(op_type=name, output_bytes=_bytes, couple=_running, vjp=RULES.get(name))
      for name in ("CumSum", "CumProd")),
)  # fmt: skip
