"""How many bytes a result takes at most, told before it is computed.

Counts are Python integers and come from files that nobody has checked: they may be negative or astronomical.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.spec import Array

__all__ = ["array_bytes", "broadcast_bytes", "broadcast_dims", "elements_bytes", "item_bytes", "total_bytes"]

_WIDEST = 8  # bytes of the largest element that a number can become (complex128 aside, which no kernel makes)


def item_bytes(array: Array) -> int:
    """Bytes of one element; for strings those of the longest."""
    if array.dtype != np.object_:
        return int(array.dtype.itemsize)
    return max((len(item) for item in array.ravel().tolist()), default=0) + 2


def array_bytes(array: Array) -> int:
    """Bytes of an array, with the longest string's for each string."""
    return int(array.size) * item_bytes(array)


def elements_bytes(dims: Iterable[int], item: int) -> int:
    """Bytes of a tensor; negative dimensions count as none."""
    return math.prod(max(int(d), 0) for d in dims) * item


def broadcast_dims(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Dimensions of the result of broadcasting, where possible; at least as large where not.

    Spec: https://github.com/onnx/onnx/blob/main/docs/Broadcasting.md

    Example:
        >>> broadcast_dims((3, 1), (5,)), broadcast_dims((0, 2), (1, 1))
        ((3, 5), (0, 2))
    """
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(max((d for d in column if d != 1), default=1) for column in zip(*padded, strict=True))


def broadcast_bytes(node: ir.Node, inputs: Sequence[Array | None]) -> int | None:
    """For operators that work element by element on broadcast inputs, whatever the result's type."""
    present = [array for array in inputs if array is not None]
    item = max((item_bytes(array) for array in present), default=0)
    return elements_bytes(broadcast_dims(*(a.shape for a in present)), max(item, _WIDEST))


def total_bytes(node: ir.Node, inputs: Sequence[Array | None]) -> int | None:
    """For operators that make nothing larger than what they are given, all outputs together."""
    return sum(int(a.size) * max(item_bytes(a), _WIDEST) for a in inputs if a is not None) + 2 * _WIDEST
