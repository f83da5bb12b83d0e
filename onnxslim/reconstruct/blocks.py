"""Round weights to a few bits with a scale for each block along the reduction: ``w ~ scale * (code - zero)``.

A weight is looked at as ``[outer, blocks, block, inner]``: what a product sums up is cut into blocks, and
each block of each output has a scale of its own, and where that helps a zero point.  Scales are not those of
the extreme values: a few clipped ones are tried, and the one with the least squared error is kept, weighted
by how large the inputs are that meet each weight.  Numbers in, numbers out: nothing here knows of graphs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Coded", "View", "round_blocks", "round_rows"]

Array = npt.NDArray[Any]

_ROWS = 1 << 14  # blocks that are rounded at a time: bounds the memory of the search
_SHRINK = np.linspace(1.0, 0.6, 9)  # of the range; what lies outside is clipped
_HALF_MAX = float(np.finfo(np.float16).max)
_HALF_MIN = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class View:
    """A weight as ``[outer, length, inner]``, of which ``length`` is summed up, in blocks of ``block``.

    Example:
        >>> View(1, 64, 10).blocked(32).shape
        (1, 2, 32, 10)
    """

    outer: int
    length: int
    inner: int
    block: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``[outer, blocks, block, inner]``."""
        block = self.block or self.length
        return self.outer, self.length // block, block, self.inner

    def blocked(self, block: int) -> View:
        """With the block size nearest to ``block`` that divides the length; 0 means one block.

        Example:
            >>> View(8, 144, 1).blocked(32).block
            36
        """
        if not block or block >= self.length:
            return View(self.outer, self.length, self.inner, self.length)
        divisors = [d for d in range(2, self.length + 1) if self.length % d == 0]
        nearest = min(divisors, key=lambda divisor: abs(math.log(divisor / block)), default=self.length)
        return View(self.outer, self.length, self.inner, nearest)

    def columns(self, weight: Array) -> Array:
        """A weight as ``[length, outer * inner]``: what an output sums up is a column."""
        cube = weight.reshape(self.outer, self.length, self.inner)
        return np.moveaxis(cube, 1, 0).reshape(self.length, -1).copy()

    def cubes(self, parts: Array) -> Array:
        """The inverse for ``[..., length or blocks, columns]``: ``[..., outer, blocks, block or 1, inner]``.

        Example:
            >>> view = View(2, 6, 1, 3)
            >>> view.cubes(view.columns(np.arange(12))).ravel().tolist() == list(range(12))
            True
        """
        outer, blocks, _, inner = self.shape
        cut = parts.reshape(*parts.shape[:-2], blocks, parts.shape[-2] // blocks, outer, inner)
        return np.ascontiguousarray(np.moveaxis(cut, -2, -4))


@dataclass(frozen=True)
class Coded:
    """A weight of a few bits: ``scale * (codes - zero)``, of floats or of int8.

    Attributes:
        codes: uint8 below ``2 ** bits``, ``[outer, blocks, block, inner]``.
        scale: float16 or float32, ``[outer, blocks, 1, inner]``; uint8 where the weight is int8.
        zero: uint8 of the shape of ``scale``, or one for all, ``[1, 1, 1, 1]``.
        bits: of a code.
        shape: of the weight.
    """

    codes: npt.NDArray[np.uint8]
    scale: Array
    zero: npt.NDArray[np.uint8]
    bits: int
    shape: tuple[int, ...]

    @property
    def is_integer(self) -> bool:
        """Whether the weight is int8."""
        return bool(self.scale.dtype == np.uint8)

    def decode(self) -> Array:
        """The weight as it is computed from the parts, in float32 or int8."""
        with np.errstate(over="ignore"):
            level = self.codes.astype(np.float32) - self.zero.astype(np.float32)
            weight: Array = (level * self.scale.astype(np.float32)).reshape(self.shape)
        return weight.astype(np.int8) if self.is_integer else weight

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, the codes packed."""
        zero = self.zero.nbytes if self.zero.size > 1 else 0
        return -(-self.codes.size * self.bits // 8) + self.scale.nbytes + zero


def round_blocks(
    weight: Array,
    view: View,
    bits: int,
    *,
    symmetric: bool = True,
    importance: Array | None = None,
    whole: bool = False,
) -> Coded:
    """Round to nearest, with the scales that leave the least error.

    Args:
        weight: finite floats, of as many elements as the view; or int8.
        bits: 2 to 8.
        symmetric: no zero points.
        importance: non-negative weight of the squared error, ``[length]``; default the same for all.
        whole: scales are whole numbers, so that what is decoded is int8; as they are of an int8 weight.

    Example:
        >>> coded = round_blocks(np.linspace(-7, 7, 15, dtype="f"), View(1, 15, 1), 4)
        >>> coded.decode()[:3], coded.scale.dtype
        (array([-7., -6., -5.], dtype=float32), dtype('float16'))
    """
    outer, blocks, block, inner = view.shape
    whole = whole or weight.dtype == np.int8
    rows = np.moveaxis(weight.reshape(view.shape), 2, 3).reshape(-1, block)
    factors = None
    if importance is not None:
        spread = importance.reshape(1, blocks, 1, block)
        factors = np.broadcast_to(spread, (outer, blocks, inner, block)).reshape(-1, block)
    spans = [slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS)]
    parts = [
        round_rows(rows[span], bits, symmetric, None if factors is None else factors[span], whole)
        for span in spans
    ]
    codes, scale, zero = (np.concatenate(part) for part in zip(*parts, strict=True))
    if whole:
        stored = scale.astype(np.uint8)
    else:  # half of the bytes, where float16 has the range
        stored = scale if np.any(_beyond_half(scale)) else scale.astype(np.float16)
    across = (outer, blocks, inner, 1)
    return Coded(
        np.ascontiguousarray(np.moveaxis(codes.reshape(outer, blocks, inner, block), 3, 2)),
        np.moveaxis(stored.reshape(across), 3, 2),
        np.full((1, 1, 1, 1), zero[0], np.uint8) if symmetric else np.moveaxis(zero.reshape(across), 3, 2),
        bits,
        weight.shape,
    )


def round_rows(
    rows: Array, bits: int, symmetric: bool, importance: Array | None = None, whole: bool = False
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Codes, scale and zero point of each row of ``[n, block]``, of those that were tried the best.

    Args:
        whole: scales are whole numbers, and what is decoded is int8.
    """
    rows = rows.astype(np.float64)
    best = np.full(len(rows), np.inf)
    codes = np.zeros(rows.shape, np.uint8)
    scales = np.ones(len(rows), np.float32)
    zeros = np.full(len(rows), 1 << (bits - 1), np.uint8)

    def consider(scale: Array, zero: Array) -> None:
        scale = np.maximum(np.rint(np.abs(scale)), 1).astype(np.float32) if whole else _as_stored(scale)
        found = _codes(rows, scale, zero, bits)
        restored = (found - zero[:, None]) * scale.astype(np.float64)[:, None]
        error = np.square(rows - restored)
        total = (error if importance is None else error * importance).sum(axis=1)
        if whole:  # scales of 1 always fit
            total[(restored.min(axis=1) < -128) | (restored.max(axis=1) > 127)] = np.inf
        better = total < best
        best[better] = total[better]
        codes[better], scales[better], zeros[better] = found[better], scale[better], zero[better]

    for scale, zero in _grids(rows, bits, symmetric):
        consider(scale, zero)
    if whole:
        consider(np.ones(len(rows)), zeros.astype(np.float64))
    levels = codes.astype(np.float64) - zeros[:, None]  # the best scale for these codes, in closed form
    weighed = levels if importance is None else levels * importance
    norm = (weighed * levels).sum(axis=1)
    fitted = (weighed * rows).sum(axis=1) / np.where(norm > 0, norm, 1)
    consider(np.where(norm > 0, fitted, scales), zeros.astype(np.float64))
    return codes, scales, zeros


def _grids(rows: Array, bits: int, symmetric: bool) -> Iterator[tuple[Array, Array]]:
    """Scales and zero points to try."""
    top = float((1 << bits) - 1)
    low, high = rows.min(axis=1, initial=0), rows.max(axis=1, initial=0)
    half = np.full(len(rows), float(1 << (bits - 1)))
    extreme = np.where(-low >= high, low, high)
    if symmetric:
        for shrink in _SHRINK:
            yield extreme * (-shrink / half), half  # the extreme value has the one code more
            yield np.abs(extreme) * (shrink / (half - 1)), half
        return
    for below, above in itertools.product(_SHRINK[::2], repeat=2):
        scale = (above * high - below * low) / top
        yield scale, np.clip(np.rint(-below * low / np.where(scale > 0, scale, 1)), 0, top)


def _codes(rows: Array, scale: Array, zero: Array, bits: int) -> npt.NDArray[np.uint8]:
    level = np.rint(rows / scale.astype(np.float64)[:, None]) + zero[:, None]
    codes: npt.NDArray[np.uint8] = np.clip(level, 0, (1 << bits) - 1).astype(np.uint8)
    return codes


def _as_stored(scale: Array) -> npt.NDArray[np.float32]:
    """As float16 has it, or float32 where that has not the range; never 0."""
    single = scale.astype(np.float32)
    single[single == 0] = 1
    if np.any(_beyond_half(single)):
        return single
    return single.astype(np.float16).astype(np.float32)


def _beyond_half(scale: Array) -> npt.NDArray[np.bool_]:
    size = np.abs(scale)
    beyond: npt.NDArray[np.bool_] = (size < _HALF_MIN) | (size > _HALF_MAX)
    return beyond
