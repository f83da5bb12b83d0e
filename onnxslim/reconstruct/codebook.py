"""Share weights: each becomes one of a few values, stored as a table and the index into it.

k-means in one dimension (Lloyd, "Least squares quantization in PCM", 1982), as in Han et al., "Deep
Compression", 2016, for many tables at once.  On a line, clusters are intervals, so values are sorted once and
a step moves the bounds alone.  Every search is deterministic.  It starts from the uniform grid, so the result
is no worse than rounding to as many even levels, and from the density that is best in the limit of many
levels: the cube root of that of the values (Panter and Dite, "Quantization distortion in pulse-count
modulation", 1951).  Numbers in, numbers out: nothing here knows of graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.reconstruct.blocks import View

__all__ = ["Codebook", "as_blocks", "as_rows", "code_bits", "share", "share_rows"]

Array = npt.NDArray[Any]

_STEPS = 25  # of Lloyd; later ones gain next to nothing
_ELEMENTS = 1 << 21  # that are clustered at a time: bounds the memory of the search
_HARDLY = 1.02  # times the error: entries of half the bytes may cost so much


@dataclass(frozen=True)
class Codebook:
    """A weight of few values: ``table[codes]``, of the table that belongs to each block, or to all.

    Attributes:
        codes: uint8 below ``2 ** bits``, ``[outer, blocks, block, inner]``.
        table: float16 or float32, ``[outer, blocks, entries, inner]``, or ``[1, 1, entries, 1]`` for all.
        bits: of a code: 1, 2, 4 or 8.
        shape: of the weight.
        scale: what the values of each block are multiplied with, ``[outer, blocks, 1, inner]``, of the same
            types as the table; None: nothing.
    """

    codes: npt.NDArray[np.uint8]
    table: Array
    bits: int
    shape: tuple[int, ...]
    scale: Array | None = None

    @property
    def is_common(self) -> bool:
        """Whether there is one table for all blocks."""
        return bool(self.table.size == self.table.shape[2])

    def decode(self) -> npt.NDArray[np.float32]:
        """The weight as it is looked up in the table, in float32."""
        table = self.table.astype(np.float32)
        if self.is_common:
            found = table.reshape(-1)[self.codes]
        else:
            found = np.take_along_axis(table, self.codes.astype(np.int64), axis=2)
        if self.scale is not None:
            found = found * self.scale.astype(np.float32)
        return found.reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, the codes packed."""
        scale = 0 if self.scale is None else self.scale.nbytes
        return -(-self.codes.size * self.bits // 8) + self.table.nbytes + scale


def code_bits(entries: int) -> int:
    """Bits of an index into so many entries, such that whole indices fill a byte.

    Example:
        >>> [code_bits(entries) for entries in (2, 3, 16, 17, 256)]
        [1, 2, 4, 8, 8]
    """
    bits = (entries - 1).bit_length()
    return next(each for each in (1, 2, 4, 8) if each >= bits)


def as_rows(cube: Array) -> Array:
    """``[outer, blocks, block, inner]`` as one row for each block."""
    return np.moveaxis(cube, 2, 3).reshape(-1, cube.shape[2])


def as_blocks(rows: Array, view: View) -> Array:
    """The inverse of :func:`as_rows`, for rows of any length."""
    outer, blocks, _, inner = view.shape
    return np.ascontiguousarray(np.moveaxis(rows.reshape(outer, blocks, inner, -1), 3, 2))


def share(weight: Array, view: View, entries: int, *, importance: Array | None = None) -> Codebook:
    """The tables of ``entries`` values that leave little squared error.

    Args:
        weight: finite floats, of as many elements as the view.
        view: each block has a table of its own.
        entries: 2 to 256.
        importance: positive weight of the squared error, of as many elements; default the same for all.

    Entries are float16 where that adds hardly any error, else float32: so a weight that has no more than
    ``entries`` values keeps every bit but the sign of zero.

    Example:
        >>> book = share(np.array([[1, 8, 2, 9]], dtype="f"), View(1, 4, 1), 2)
        >>> book.decode().tolist(), book.nbytes
        ([[1.5, 8.5, 1.5, 8.5]], 5)
    """
    rows = as_rows(weight.reshape(view.shape))
    weighed = None if importance is None else as_rows(importance.reshape(view.shape))
    step = max(_ELEMENTS // max(rows.shape[1], 1), 1)
    spans = [slice(start, start + step) for start in range(0, len(rows), step)]
    halves, singles = [], []
    for span in spans:
        half, single = share_rows(rows[span], entries, None if weighed is None else weighed[span])
        halves.append(half)
        singles.append(single)
    error = [sum(float(part.error.sum()) for part in parts) for parts in (halves, singles)]
    parts = halves if error[0] <= _HARDLY * error[1] else singles
    return Codebook(
        as_blocks(np.concatenate([part.codes for part in parts]), view),
        as_blocks(np.concatenate([part.table for part in parts]), view),
        code_bits(entries),
        weight.shape,
    )


@dataclass(frozen=True)
class Shared:
    """Rows as indices into tables ``[n, entries]``, with the squared error that each row is left with."""

    codes: npt.NDArray[np.uint8]
    table: Array
    error: npt.NDArray[np.float64]


def share_rows(rows: Array, entries: int, importance: Array | None = None) -> tuple[Shared, Shared]:
    """A table for each row of ``[n, m]``, with entries in float16 and in float32, of those that were tried
    the best."""
    order = np.argsort(rows, axis=1, kind="stable")
    values = np.take_along_axis(rows, order, axis=1).astype(np.float64)
    mass = np.ones_like(values)
    if importance is not None:
        mass = np.take_along_axis(importance, order, axis=1).astype(np.float64)
    best: list[Shared | None] = [None, None]
    for centers in _candidates(values, mass, entries):
        for at, dtype in enumerate((np.float16, np.float32)):
            best[at] = _better(best[at], _stored(values, mass, centers, dtype))
    half, single = (_unsorted(found, order) for found in best if found is not None)
    return half, single


def _candidates(values: Array, mass: Array, entries: int) -> Iterator[Array]:
    """Sorted entries to try, ``[n, entries]``."""
    yield _distinct(values, entries)
    yield _lloyd(values, mass, _grid(values, entries))
    gaps = np.diff(values, axis=1, prepend=values[:, :1])
    yield _lloyd(values, mass, _even_shares(values, np.cbrt(mass * gaps**2), entries))
    yield _lloyd(values, mass, _even_shares(values, mass, entries))  # outliers do not spread these


def _distinct(values: Array, entries: int) -> Array:
    """The first values that differ: all of them, where they are few."""
    rank = np.zeros(values.shape, np.int64)
    np.cumsum(np.diff(values, axis=1) != 0, axis=1, out=rank[:, 1:])
    centers = np.repeat(values[:, -1:], entries, axis=1)
    few = rank < entries
    row, column = np.nonzero(few)
    centers[row, rank[row, column]] = values[row, column]
    return np.sort(centers, axis=1)


def _grid(values: Array, entries: int) -> Array:
    share = np.linspace(0, 1, entries)
    grid: Array = values[:, :1] * (1 - share) + values[:, -1:] * share
    return grid


def _even_shares(values: Array, cost: Array, entries: int) -> Array:
    """Entries between which there is as much of ``cost``.

    That of ``cbrt(mass * gap ** 2)`` makes them as dense as the cube root of the density, ``mass / gap``.
    """
    passed = np.cumsum(cost, axis=1)
    wanted = passed[:, -1:] * ((np.arange(entries) + 0.5) / entries)
    at = np.minimum(_count_below(passed, wanted), values.shape[1] - 1)
    centers: Array = np.take_along_axis(values, at, axis=1)
    return centers


def _lloyd(values: Array, mass: Array, centers: Array) -> Array:
    """Centers at the means of the values that are nearest to them; one that has none stays where it is."""
    heavy = mass * values
    known: Array | None = None
    for _ in range(_STEPS):
        bounds = _bounds(values, centers)
        if known is not None and np.array_equal(bounds, known):
            break
        known = bounds
        total, weighed = _sums(mass, bounds), _sums(heavy, bounds)
        centers = np.where(total > 0, weighed / np.where(total > 0, total, 1), centers)
        centers = np.sort(centers, axis=1)
    return centers


def _bounds(values: Array, centers: Array) -> npt.NDArray[np.int64]:
    """How many values of each row lie below the middle between two centers."""
    return _count_below(values, (centers[:, 1:] + centers[:, :-1]) / 2)


def _count_below(values: Array, limits: Array) -> npt.NDArray[np.int64]:
    """``searchsorted`` for each row."""
    length = values.shape[1]
    low = np.zeros(limits.shape, np.int64)
    high = np.full(limits.shape, length, np.int64)
    for _ in range(length.bit_length()):
        middle = (low + high) // 2
        below = np.take_along_axis(values, np.minimum(middle, length - 1), axis=1) < limits
        open_ = low < high
        low, high = np.where(open_ & below, middle + 1, low), np.where(open_ & ~below, middle, high)
    return low


def _sums(values: Array, bounds: npt.NDArray[np.int64]) -> Array:
    """Of the runs that ``bounds`` cut each row into, each summed alone: no large value hides others."""
    rows, length = values.shape
    starts = np.concatenate([np.zeros((rows, 1), np.int64), bounds], axis=1)
    ends = np.concatenate([bounds, np.full((rows, 1), length)], axis=1)
    flat = np.append(values.ravel(), 0.0)
    sums = np.add.reduceat(flat, (starts + length * np.arange(rows)[:, None]).ravel()).reshape(starts.shape)
    return np.where(starts < ends, sums, 0.0)


def _stored(values: Array, mass: Array, centers: Array, dtype: Any) -> Shared:
    """The nearest of the entries, as ``dtype`` has them."""
    with np.errstate(over="ignore", invalid="ignore"):
        table = np.sort(centers.astype(np.float32), axis=1).astype(dtype)
        wide = table.astype(np.float64)
        bounds = _bounds(values, wide)
        steps = np.zeros((len(values), values.shape[1] + 1), np.int64)
        np.add.at(steps, (np.arange(len(values))[:, None], bounds), 1)
        codes = np.cumsum(steps[:, :-1], axis=1)
        error = (mass * np.square(values - np.take_along_axis(wide, codes, axis=1))).sum(axis=1)
    return Shared(codes.astype(np.uint8), table, np.where(np.isfinite(wide).all(axis=1), error, np.inf))


def _better(one: Shared | None, other: Shared) -> Shared:
    if one is None:
        return other
    wins = other.error < one.error
    return Shared(
        np.where(wins[:, None], other.codes, one.codes),
        np.where(wins[:, None], other.table, one.table),
        np.minimum(one.error, other.error),
    )


def _unsorted(found: Shared, order: npt.NDArray[np.int64]) -> Shared:
    codes = np.empty_like(found.codes)
    np.put_along_axis(codes, order, found.codes, axis=1)
    return Shared(codes, found.table, found.error)
