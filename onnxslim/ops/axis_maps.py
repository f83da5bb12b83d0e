"""Linear maps along one axis, as nodes: picking, repeating and blending positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim.ops.spec import Array
from onnxslim.ops.terms import Term, integers

__all__ = ["multiplied", "scattered"]

_LAYERS = 4  # picks of one position that are cheaper one by one than as a product with a matrix


def multiplied(term: Term, rank: int, axis: int, matrix: Array) -> Term:
    """``matrix [in, out]`` applied along an axis.

    Args:
        rank: of the term.
        axis: counted from the front.
    """
    weight = term.constant(np.ascontiguousarray(matrix).astype(term.dtype.numpy()))
    if axis == rank - 1:
        return term.then("MatMul", weight)
    if axis == rank - 2:
        return term.constant(np.ascontiguousarray(matrix.T).astype(term.dtype.numpy())).then("MatMul", term)
    order = [*range(axis), *range(axis + 1, rank), axis]
    back = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return term.transpose(order).then("MatMul", weight).transpose(back)


def scattered(term: Term, rank: int, axis: int, picks: Sequence[int], size: int) -> Term:
    """The adjoint of picking positions along an axis: position ``i`` of the term is added to ``picks[i]``.

    Args:
        picks: positions in the result, one for each of the term; -1 for those that go nowhere.
        size: positions of the result.
    """
    if list(picks) == list(range(size)):
        return term
    places: list[list[int]] = [[] for _ in range(size)]
    for own, pick in enumerate(picks):
        if pick >= 0:
            places[pick].append(own)
    layers = max(map(len, places), default=0)
    if layers > _LAYERS:
        matrix = np.zeros((len(picks), size))
        for own, pick in enumerate(picks):
            if pick >= 0:
                matrix[own, pick] = 1
        return multiplied(term, rank, axis, matrix)
    start = picks[0] if len(picks) else 0
    if list(picks) == list(range(start, start + len(picks))) and start >= 0:
        pads = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = start, size - start - len(picks)
        return term.pad(pads)
    ends = [0] * (2 * rank)
    ends[rank + axis] = 1
    padded = term.pad(ends)  # nothing is picked from behind the last one
    parts = [
        padded.then("Gather", integers(term, (p[k] if k < len(p) else len(picks) for p in places)), axis=axis)
        for k in range(max(layers, 1))
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
