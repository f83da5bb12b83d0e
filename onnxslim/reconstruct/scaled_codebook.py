"""Share weights by one table of few values for all blocks of a tensor, each of which has a scale of its own.

A table for each block would cost more than the indices into it, and one table without scales must spread its
values over the largest of all blocks.  Here a block is a multiple of values out of the table, which k-means
finds among all blocks brought to one size (Lloyd, "Least squares quantization in PCM", 1982, with the scale
as a gain: Sabin and Gray, "Product code vector quantizers for waveform and voice coding", 1984).  The table
is learned from a sample; every search is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.reconstruct.blocks import View
from onnxslim.reconstruct.codebook import Codebook, as_blocks, as_rows, code_bits, share_rows
from onnxslim.reconstruct.gptq import hand_on, inverse_factor

__all__ = ["Fitted", "fit_rows", "learn_table", "share_by_outputs", "share_scaled"]

Array = npt.NDArray[Any]

_STEPS = 8  # of the table
_SAMPLE = 1 << 18  # elements that the table is learned from
_ELEMENTS = 1 << 21  # that are fitted at a time: bounds the memory
_LEARNING = (1.1, 1.0, 0.9, 0.8)  # scales to try, as multiples of the extreme value
_FINAL = (1.2, 1.1, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7, -1.1, -1.0, -0.9)
_GRID, _REACH = 2048, 1.5  # points on each side of zero, and how far they reach
_LEAST = float(np.finfo(np.float16).smallest_subnormal)
_MOST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Fitted:
    """Rows as ``scale * table[codes]``, with the squared error of each."""

    codes: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32]
    error: npt.NDArray[np.float64]


def share_scaled(weight: Array, view: View, entries: int, *, importance: Array | None = None) -> Codebook:
    """The table of ``entries`` values and the scales that leave little squared error.

    Args:
        weight: finite floats, of as many elements as the view.
        view: each block has a scale.
        entries: 2 to 256.
        importance: positive weight of the squared error, of as many elements; default the same for all.

    Scales are float16, or float32 where their range asks for it.

    Example:
        >>> book = share_scaled(np.array([[1, 3, 2, 6]], dtype="f"), View(1, 4, 1, 2), 2)
        >>> book.decode().tolist(), book.table.size, book.scale.ravel().tolist()
        ([[1.0, 3.0, 2.0, 6.0]], 2, [3.0, 6.0])
    """
    rows = as_rows(weight.reshape(view.shape))
    mass = None if importance is None else as_rows(importance.reshape(view.shape))
    half = _fits_half(rows)
    chosen = np.linspace(0, len(rows) - 1, max(min(_SAMPLE // rows.shape[1], len(rows)), 1)).astype(np.int64)
    table = learn_table(rows[chosen], entries, None if mass is None else mass[chosen], half=half)
    step = max(_ELEMENTS // rows.shape[1], 1)
    spans = [slice(start, start + step) for start in range(0, len(rows), step)]
    parts = [fit_rows(rows[s], table, None if mass is None else mass[s], half=half) for s in spans]
    scale = np.concatenate([part.scale for part in parts])[:, None]
    return Codebook(
        as_blocks(np.concatenate([part.codes for part in parts]), view),
        table.reshape(1, 1, entries, 1),
        code_bits(entries),
        weight.shape,
        as_blocks(scale.astype(np.float16) if half else scale, view),
    )


def share_by_outputs(
    weight: Array, view: View, moments: Array, entries: int, *, damping: float = 0.01
) -> Codebook:
    """The same, with GPTQ: values that are looked up one after another, each making good what was lost.

    Args:
        moments: ``X^T X`` over the inputs that the weight is multiplied with, ``[length, length]``.
        damping: added to the diagonal, as a share of its mean.

    Raises:
        numpy.linalg.LinAlgError: ``moments`` is not positive definite, however much it is damped.

    Example:
        >>> from onnxslim.reconstruct.gptq import output_error
        >>> x = np.random.default_rng(0).normal(size=(256, 1)) + np.arange(1, 9) / 20
        >>> w, view = np.random.default_rng(1).normal(size=(8, 4)), View(1, 8, 4, 8)
        >>> ours = share_by_outputs(w, view, x.T @ x, 4).decode()
        >>> nearest = share_scaled(w, view, 4).decode()
        >>> output_error(w, ours, view, x.T @ x) < output_error(w, nearest, view, x.T @ x)
        True
    """
    diagonal = np.diag(moments)
    weighed = np.broadcast_to((diagonal + damping * diagonal.mean())[:, None], (view.length, view.inner))
    importance = np.broadcast_to(weighed, (view.outer, *weighed.shape))
    known = share_scaled(weight, view, entries, importance=importance)
    table = known.table.reshape(-1)
    levels, (_, blocks, block, _) = table.astype(np.float64), view.shape
    work, factor = view.columns(weight.astype(np.float64)), inverse_factor(moments, damping)
    columns, half = work.shape[1], known.scale is not None and known.scale.dtype == np.float16
    codes = np.zeros(work.shape, np.uint8)
    scales = np.ones((blocks, columns), np.float32)

    def begin(start: int) -> None:
        if start % block == 0:
            mass = np.broadcast_to(weighed[start : start + block, 0], (columns, block))
            scales[start // block] = fit_rows(work[start : start + block].T, table, mass, half=half).scale

    def rounded(row: int) -> Array:
        scale = scales[row // block].astype(np.float64)
        codes[row] = nearest(work[row] / scale, levels)
        return np.asarray(levels[codes[row]] * scale)

    hand_on(work, factor, block, begin, rounded)
    scale = view.cubes(scales)
    return replace(
        known,
        codes=view.cubes(codes),
        scale=scale.astype(np.float16) if half else scale,
    )


def learn_table(
    rows: Array, entries: int, importance: Array | None = None, *, half: bool = True
) -> npt.NDArray[np.float32]:
    """Sorted values, such that rows ``[n, block]`` are near to multiples of them.

    Example:
        >>> learn_table(np.array([[1.0, 3.0], [2.0, 6.0]]), 2).astype(float).round(3).tolist()
        [0.333, 1.0]
    """
    values = rows.astype(np.float64)
    mass = np.ones_like(values) if importance is None else importance.astype(np.float64)
    scale = _extreme(values)
    scale[scale == 0] = 1
    scaled = (values / scale[:, None]).reshape(1, -1)
    _, first = share_rows(scaled, entries, (mass * scale[:, None] ** 2).reshape(1, -1))
    table = first.table[0].astype(np.float64)
    for _ in range(_STEPS):
        found = fit_rows(values, table, mass, _LEARNING, half=half)
        gains = found.scale.astype(np.float64)[:, None]
        codes = found.codes.reshape(-1)
        weighed = np.bincount(codes, (mass * gains * values).reshape(-1), entries)
        total = np.bincount(codes, (mass * gains**2).reshape(-1), entries)
        table = np.sort(np.where(total > 0, weighed / np.where(total > 0, total, 1), table))
    stored: npt.NDArray[np.float32] = table.astype(np.float32)
    return stored


def fit_rows(
    rows: Array,
    table: Array,
    importance: Array | None = None,
    scales: tuple[float, ...] = _FINAL,
    *,
    half: bool = True,
) -> Fitted:
    """The scale of each row, of those that were tried the best, and the nearest values of a sorted table.

    Args:
        scales: multiples of the extreme value to try; then the scale is solved for twice.
        half: as float16 has it.
    """
    values, levels = rows.astype(np.float64), table.astype(np.float64)
    mass = np.ones_like(values) if importance is None else importance.astype(np.float64)
    best = np.full(len(values), np.inf)
    codes = np.zeros(values.shape, np.uint8)
    chosen = np.ones(len(values), np.float32)

    def consider(scale: Array) -> None:
        stored = _as_stored(scale, half)
        wide = stored.astype(np.float64)[:, None]
        found = nearest(values / wide, levels)
        error = (mass * np.square(values - wide * levels[found])).sum(axis=1)
        better = error < best
        best[better], chosen[better], codes[better] = error[better], stored[better], found[better]

    extreme = _extreme(values)
    consider(extreme * _best_factor(values, extreme, levels, importance, scales))
    for _ in range(2):
        looked_up = levels[codes]
        norm = (mass * looked_up**2).sum(axis=1)
        consider(np.where(norm > 0, (mass * looked_up * values).sum(axis=1) / np.where(norm > 0, norm, 1), 1))
    return Fitted(codes, chosen, best)


def _best_factor(
    values: Array, extreme: Array, levels: Array, importance: Array | None, factors: tuple[float, ...]
) -> Array:
    """Which multiple of its extreme value scales a row best, told from levels rounded to a fine grid."""
    grid = nearest((np.arange(2 * _GRID + 1) - _GRID) / (_GRID / _REACH), levels)
    snapped = levels[grid].astype(np.float32)
    unit = (values / np.where(extreme == 0, 1, extreme)[:, None]).astype(np.float32)
    mass = None if importance is None else importance.astype(np.float32)
    best = np.full(len(values), np.inf, np.float32)
    chosen = np.full(len(values), factors[0])
    for factor in factors:
        at = np.clip(unit * np.float32(_GRID / _REACH / factor) + (_GRID + 0.5), 0, 2 * _GRID)
        lost = np.square(unit - np.float32(factor) * snapped[at.astype(np.int32)])
        error = (lost if mass is None else lost * mass).sum(axis=1)
        better = error < best
        best[better], chosen[better] = error[better], factor
    return chosen


def nearest(values: Array, levels: Array) -> npt.NDArray[np.uint8]:
    """The index of the nearest of some sorted levels."""
    middles = (levels[1:] + levels[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)


def _extreme(values: Array) -> Array:
    low, high = values.min(axis=1, initial=0), values.max(axis=1, initial=0)
    extreme: Array = np.where(-low > high, low, high)
    return extreme


def _fits_half(rows: Array) -> bool:
    size = np.abs(rows).max(axis=1, initial=0)
    return bool(np.all((size == 0) | ((size > 64 * _LEAST) & (size < _MOST / 2))))


def _as_stored(scale: Array, half: bool) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        stored = scale.astype(np.float16).astype(np.float32) if half else scale.astype(np.float32)
    stored[stored == 0] = _LEAST
    return stored
