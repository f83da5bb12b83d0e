"""Round weights to signed 8-bit integers with one scale per slice: ``w ~ scale * q``.

Symmetric, so that zero stays zero and no zero point is needed; -128 is never used, so that ``q`` and ``-q``
are equally exact.  Numbers in, numbers out: nothing here knows of graphs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Rounded", "round_best", "round_symmetric", "sqnr_db"]

Array = npt.NDArray[Any]

_LEVELS = 127  # of int8, without -128
_MAX_SCALE_SHARE = 1 / 8  # scales per weight


@dataclass(frozen=True)
class Rounded:
    """A weight as ``scale * q``: int8 of the weight's shape, float32 scales of the same rank.

    ``scale`` has the weight's extent along the axes that have scales of their own and 1 along the others.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]

    def decode(self) -> npt.NDArray[np.float32]:
        """The weight as it is computed from the parts, in float32."""
        with np.errstate(over="ignore"):
            return self.q.astype(np.float32) * self.scale

    @property
    def nbytes(self) -> int:
        """Bytes of both parts."""
        return self.q.nbytes + self.scale.nbytes


def round_symmetric(weight: Array, axes: tuple[int, ...] = (), at_least: Array | float = 0.0) -> Rounded:
    """Round to nearest with one scale per index along ``axes`` (none: one scale for the whole tensor).

    Args:
        weight: finite floats of any shape.
        axes: the axes that keep scales of their own.
        at_least: a lower bound of the scales, of their shape.

    Returns:
        ``q`` in [-127, 127]; a slice of zeros has the scale 1.

    Example:
        >>> round_symmetric(np.array([[1.0, -2.0], [0.0, 0.0]]), (0,)).q.tolist()
        [[64, -127], [0, 0]]
    """
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    peak = np.abs(weight).max(axis=others, keepdims=True, initial=0)
    scale = np.maximum(peak / _LEVELS, at_least).astype(np.float32)
    scale[scale == 0] = 1  # zeros only, or too small for a scale of their own
    q = np.clip(np.rint(weight / scale), -_LEVELS, _LEVELS).astype(np.int8)
    return Rounded(q, scale)


def round_best(weight: Array) -> Rounded:
    """Round with the axes, none to two, whose scales are few and leave the smallest squared error.

    Args:
        weight: finite floats.

    Example:
        >>> round_best(np.outer([1e3, 1.0], np.linspace(1, 2, 32))).scale.shape
        (2, 1)
    """
    best, least = round_symmetric(weight), math.inf
    for axes in _few_scales(weight.shape):
        rounded = round_symmetric(weight, axes)
        error = float(np.square(rounded.decode() - weight).sum(dtype=np.float64))
        if error < least:
            best, least = rounded, error
    return best


def _few_scales(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    size = math.prod(shape)
    for count in (0, 1, 2):
        for axes in itertools.combinations(range(len(shape)), count):
            scales = math.prod(shape[axis] for axis in axes)
            # One axis may cost more: depthwise filters have no more than nine weights per channel.
            if not axes or (scales > 1 and scales <= size * (_MAX_SCALE_SHARE if count == 1 else 1 / 32)):
                yield axes


def sqnr_db(reference: Array, other: Array) -> float:
    """Signal to quantization noise ratio, ``10 log10(sum r^2 / sum (r - o)^2)``; infinite where equal.

    Example:
        >>> round(sqnr_db(np.array([10.0, 0.0]), np.array([9.0, 0.0])), 1)
        20.0
    """
    noise = float(np.square(reference - other, dtype=np.float64).sum())
    signal = float(np.square(reference, dtype=np.float64).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
