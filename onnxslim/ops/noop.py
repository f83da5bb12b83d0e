"""When an operator hands on an input bit for bit: conditions that several operators share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.spec import Facts

__all__ = ["neutral", "one_input", "same_dims", "same_shape"]

Noop = Callable[[ir.Node, Facts], int | None]


def same_dims(first: ir.Value | None, second: ir.Value | None, facts: Facts) -> bool:
    """Whether two values certainly have the same shape: equal numbers or equal names, none unknown."""
    if first is None or second is None:
        return False
    one, other = facts.shape(first), facts.shape(second)
    return one is not None and other is not None and None not in one and list(one) == list(other)


def same_shape(node: ir.Node, facts: Facts) -> int | None:
    """For operators that change nothing but the shape."""
    return 0 if same_dims(node.inputs[0], node.outputs[0], facts) else None


def one_input(node: ir.Node, facts: Facts) -> int | None:
    """For operators that combine any number of inputs, of which there is one."""
    return 0 if len(node.inputs) == 1 and node.inputs[0] is not None else None


def neutral(element: float, *, minus_zero: bool = False, right_only: bool = False) -> Noop:
    """For binary operators: the other input is filled with the neutral element, and broadcasts away.

    Args:
        element: what changes nothing: 0 for Add, 1 for Mul.
        minus_zero: for floats a zero has to be negative, since ``-0.0 + 0.0`` is ``+0.0``.
        right_only: the operation is not commutative.
    """

    def condition(node: ir.Node, facts: Facts) -> int | None:
        if len(node.inputs) != 2 or "broadcast" in node.attributes:
            return None
        for kept in (0,) if right_only else (0, 1):
            data, other = node.inputs[kept], node.inputs[1 - kept]
            if data is None or other is None:
                continue
            dims = facts.shape(data)
            constant = facts.constant(other)
            if constant is None or constant.size == 0 or constant.dtype == np.object_:
                continue
            if constant.size > 1 and not same_dims(data, node.outputs[0], facts):
                continue
            if constant.ndim > (0 if dims is None else len(dims)):
                continue
            if not (constant == element).all():
                continue
            if (
                constant.dtype.kind not in "biu"
                and element == 0
                and (np.signbit(constant) != minus_zero).any()
            ):
                continue
            return kept
        return None

    return condition
