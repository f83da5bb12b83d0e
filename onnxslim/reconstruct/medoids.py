"""Few rows that stand for many: each of the others is one of them, or a multiple, up to a relative error.

A cover by balls around some of the rows themselves (k-medoids with a bound instead of a k; Kaufman and
Rousseeuw, "Clustering by means of medoids", 1987).  Rows that are near each other have near projections, so
each is compared with few: those whose projection on one direction differs by no more than the bound allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Cover", "cover"]

Array = npt.NDArray[Any]

_CHUNK = 512  # rows that are compared with others at a time


@dataclass(frozen=True)
class Cover:
    """Row i is ``scale[i] * rows[base[i]]``, up to ``error[i]`` times its norm; a base is itself.

    Attributes:
        base: ``[n]``, indices of rows.
        scale: ``[n]``, float32; 1 of bases, and of all where only equal rows were asked for.
        error: ``[n]``, relative; measured in float64 on what float32 computes.
    """

    base: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float32]
    error: npt.NDArray[np.float64]


def cover(rows: Array, tolerance: float, *, scaled: bool) -> Cover:
    """Find few bases such that every row is within ``tolerance`` of one.

    Args:
        rows: ``[n, m]``, finite float32.
        tolerance: of the difference's norm, relative to that of the row.
        scaled: multiples of a base count too, negative ones as well.

    Greedy: bases are not the fewest that there could be.  Each row then goes to the nearest base, and a base
    gives way to that of its rows which is nearest to all of them, if all stay within the tolerance.

    Example:
        >>> found = cover(np.array([[1, 2], [3, 1], [2, 4.001]], dtype="f"), 1e-3, scaled=True)
        >>> found.base.tolist(), found.scale.round(3).tolist()
        ([0, 1, 0], [1.0, 1.0, 2.0])
    """
    wide = rows.astype(np.float64)
    norm = np.sqrt(np.einsum("nm,nm->n", wide, wide))
    unit = wide / np.where(norm > 0, norm, 1)[:, None]
    direction = np.random.default_rng(0).normal(size=rows.shape[1])
    along = unit @ (direction / np.linalg.norm(direction))
    if scaled:
        unit[along < 0] *= -1
        along = np.abs(along)
    order = np.argsort(along, kind="stable")
    leader = _leaders(unit[order], norm[order], along[order], tolerance, scaled)
    base = np.empty(len(rows), np.int64)
    base[order] = order[leader]
    base = _recentred(wide, norm, base, tolerance, scaled)
    scale = _scales(wide, base, scaled)
    error = _errors(rows, norm, base, scale)
    alone = ~(error <= tolerance)  # what rounding took beyond the bound
    base[alone], scale[alone], error[alone] = np.flatnonzero(alone), 1, 0
    return Cover(base, scale, error)


def _leaders(unit: Array, norm: Array, along: Array, tolerance: float, scaled: bool) -> npt.NDArray[np.int64]:
    """For each of the rows, sorted by projection, an earlier one that it is near to, or itself."""
    count = len(unit)
    leader = np.arange(count)
    is_leader = np.zeros(count, np.bool_)
    # near rows have near directions: |u - v| <= 2 |x - y| / |x|
    reach = 2.0 * tolerance + 1e-9
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        low = int(np.searchsorted(along, along[start] - reach))
        known = low + np.flatnonzero(is_leader[low:start])
        distance = _distances(unit[start:stop], norm[start:stop], unit[known], norm[known], scaled)
        free = np.ones(stop - start, np.bool_)
        if len(known):
            nearest = distance.argmin(axis=1)
            free = distance[np.arange(stop - start), nearest] > tolerance
            leader[start:stop][~free] = known[nearest[~free]]
        among = _distances(unit[start:stop], norm[start:stop], unit[start:stop], norm[start:stop], scaled)
        among[~free] = np.inf
        among[:, ~free] = np.inf
        np.fill_diagonal(among, np.inf)
        close = among <= tolerance
        for at in np.flatnonzero(free):
            if not free[at]:
                continue
            is_leader[start + at] = True
            free[at] = False
            taken = np.flatnonzero(close[:, at] & free)
            leader[start + taken] = start + at
            free[taken] = False
    return leader


def _distances(unit: Array, norm: Array, others: Array, sizes: Array, scaled: bool) -> Array:
    """Of rows from others or their best multiples, relative to the norm of the row; rows of zeros are near to
    nothing but rows of zeros."""
    cosine = np.clip(unit @ others.T, -1.0, 1.0)
    if scaled:
        found = np.sqrt(np.maximum(1.0 - cosine**2, 0.0))
    else:
        ratio = sizes[None] / np.where(norm > 0, norm, 1)[:, None]
        found = np.sqrt(np.maximum(1.0 + ratio**2 - 2.0 * ratio * cosine, 0.0))
    silent = norm == 0
    found[silent] = np.where(sizes == 0, 0.0, np.inf)[None]
    found[:, sizes == 0] = np.where(silent, 0.0, np.inf)[:, None]
    return np.asarray(found)


def _recentred(
    wide: Array, norm: Array, base: npt.NDArray[np.int64], tolerance: float, scaled: bool
) -> npt.NDArray[np.int64]:
    found = base.copy()
    order = np.argsort(base, kind="stable")
    starts = np.flatnonzero(np.diff(base[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        if not 2 < len(members) <= _CHUNK:
            continue
        unit = wide[members] / np.where(norm[members] > 0, norm[members], 1)[:, None]
        distance = _distances(unit, norm[members], unit, norm[members], scaled)
        allowed = (distance <= tolerance).all(axis=0)
        if allowed.any():
            found[members] = members[np.where(allowed, (distance**2).sum(axis=0), np.inf).argmin()]
    return found


def _scales(wide: Array, base: npt.NDArray[np.int64], scaled: bool) -> npt.NDArray[np.float32]:
    scale = np.ones(len(wide), np.float32)
    if scaled:
        moved = np.flatnonzero(base != np.arange(len(base)))
        bases = wide[base[moved]]
        energy = np.einsum("nm,nm->n", bases, bases)
        product = np.einsum("nm,nm->n", wide[moved], bases)
        with np.errstate(over="ignore"):
            scale[moved] = np.where(energy > 0, product / np.where(energy > 0, energy, 1), 1)
    return scale


def _errors(
    rows: Array, norm: Array, base: npt.NDArray[np.int64], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    error = np.zeros(len(rows))
    moved = np.flatnonzero(base != np.arange(len(base)))
    with np.errstate(over="ignore", invalid="ignore"):
        made = rows[base[moved]] * scale[moved, None]
    lost = np.sqrt(np.square(rows[moved].astype(np.float64) - made).sum(axis=1))
    size = norm[moved]
    error[moved] = np.where(size > 0, lost / np.where(size > 0, size, 1), np.where(lost > 0, np.inf, 0.0))
    return error
