"""Reductions and running sums along axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.arithmetic import INTEGERS
from onnxslim.ops.attributes import int_of
from onnxslim.ops.movement import axes_of, given
from onnxslim.ops.sizes import elements_bytes
from onnxslim.ops.spec import Array, Declined, Facts, OpSpec, QuantRole

__all__ = ["SPECS"]

Inputs = Sequence[Array | None]
Evaluator = Callable[[ir.Node, Inputs], Sequence[Array]]


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


def _reduction(name: str, function: Callable[..., Any] | None = None, **facts: Any) -> OpSpec:
    evaluator = None if function is None else _reduce(function)
    return OpSpec(op_type=f"Reduce{name}", numpy=evaluator, output_bytes=_bytes, **facts)


SPECS = (
    _reduction("Sum", _sum, identity_input=_reduces_nothing),
    _reduction("Prod", _prod, identity_input=_reduces_nothing),
    _reduction("Max", np.max, identity_input=_reduces_nothing),
    _reduction("Min", np.min, identity_input=_reduces_nothing),
    _reduction("Mean", identity_input=_reduces_nothing, quant=QuantRole()),
    *(_reduction(name) for name in ("L1", "L2", "LogSum", "LogSumExp", "SumSquare")),
    *(OpSpec(op_type=name, output_bytes=_bytes) for name in ("ArgMax", "ArgMin", "CumSum", "CumProd")),
)  # fmt: skip
