"""Multiply-accumulates from shapes, in Python integers; None where a dimension is not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxslim._ir import ir
from onnxslim.ops.spec import ShapeOf

__all__ = ["dims_of", "output_dims", "product"]


def product(dims: Iterable[int | str | None] | None) -> int | None:
    """The number of elements, None if any dimension is not a number.

    Example:
        >>> product([2, 3]), product([2, "batch"]), product([])
        (6, None, 1)
    """
    if dims is None:
        return None
    total = 1
    for dim in dims:
        if not isinstance(dim, int):
            return None
        total *= dim
    return total


def dims_of(node: ir.Node, index: int, shape_of: ShapeOf) -> Sequence[int | str | None] | None:
    """Dimensions of an input, None where they or the input are missing."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else shape_of(value)


def output_dims(node: ir.Node, shape_of: ShapeOf) -> Sequence[int | str | None] | None:
    """Dimensions of output 0."""
    return shape_of(node.outputs[0]) if node.outputs else None
