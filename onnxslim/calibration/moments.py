"""Sums over a tensor's channels: moments, and on request the products of all pairs of channels.

They are floating-point sums, so that their bits depend on the grouping; the runner fixes it.  Runs in the
worker process: imports numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Bounds", "Moments", "Products", "bounds_of"]

Bounds = tuple[float, float]

_HUGE = 1e15  # squares and sums of larger values leave float32 (masks of -3.4e38 are common)


def bounds_of(values: np.ndarray) -> Bounds:
    """Smallest and largest value; NaN where there is one, and zeros where there are no values."""
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Moments:
    """Per channel: mean, sum of squared deviations and mean magnitude, float64; ``count`` values each.

    Merged by the pairwise update of Chan, Golub and LeVeque (1983), which cancels nothing.
    """

    axis: int
    count: int
    mean: np.ndarray
    m2: np.ndarray
    mean_abs: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, axis: int, bounds: Bounds | None = None) -> Moments:
        """Of finite values over all axes but ``axis`` (negative counts from the end).

        Args:
            bounds: what ``bounds_of`` gives, where it is known.

        Example:
            >>> Moments.of(np.array([[1.0, 10.0], [3.0, 10.0]]), axis=1).mean
            array([ 2., 10.])
        """
        channels = values.shape[axis]
        count = values.size // channels if channels else 0
        if not count:
            zero = np.zeros(channels)
            return cls(axis, 0, zero, zero, zero)
        at = axis % values.ndim
        inner = math.prod(values.shape[at + 1 :])
        cube = values.reshape(-1, channels, inner)
        low, high = bounds or bounds_of(values)
        if cube.dtype != np.float64:
            huge = max(-low, high) > _HUGE
            cube = cube.astype(np.float64 if huge else np.float32, copy=False)
        mean = _channel_sums(cube) / count
        # Squares of deviations from (nearly) the mean: sums of squares would cancel.
        centred = cube - mean.astype(cube.dtype)[:, None]
        shift = _channel_sums(centred) / count
        np.multiply(centred, centred, out=centred)
        m2 = np.maximum(_channel_sums(centred) - count * shift**2, 0.0)
        if low >= 0:
            return cls(axis, count, mean + shift, m2, mean + shift)
        np.abs(cube, out=centred)
        return cls(axis, count, mean + shift, m2, _channel_sums(centred) / count)

    @property
    def variance(self) -> np.ndarray:
        """Per channel, over all values (not the sample variance)."""
        return self.m2 / max(self.count, 1)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values.

        Raises:
            ValueError: the sets differ in their channels.
        """
        if self.axis != other.axis or self.mean.shape != other.mean.shape:
            raise ValueError("the number of channels differs between samples")
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        share = other.count / count
        delta = other.mean - self.mean
        return Moments(
            self.axis,
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta**2 * (self.count * share),
            self.mean_abs + (other.mean_abs - self.mean_abs) * share,
        )


_ROWS = 1 << 12  # rows that are widened to float64 at a time


@dataclass(frozen=True, slots=True)
class Products:
    """``X^T X`` in float64, where X has a row for each position of the data and a column for each channel.

    What layer-wise reconstruction needs of a layer's input (Frantar et al., "GPTQ", 2022); not centred.
    """

    count: int
    matrix: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, axis: int) -> Products:
        """Of finite values over all axes but ``axis`` (negative counts from the end).

        Example:
            >>> Products.of(np.array([[1.0, 2.0], [3.0, 0.0]]), axis=1).matrix
            array([[10.,  2.],
                   [ 2.,  4.]])
        """
        rows = np.moveaxis(values, axis, -1)
        channels = rows.shape[-1]
        rows = rows.reshape(-1, channels) if channels else np.zeros((0, 0))
        matrix = np.zeros((channels, channels))
        for start in range(0, len(rows), _ROWS):
            block = rows[start : start + _ROWS].astype(np.float64)
            matrix += block.T @ block
        return cls(len(rows), matrix)

    def merge(self, other: Products) -> Products:
        """The products of both sets of rows.

        Raises:
            ValueError: the sets differ in their channels.
        """
        if self.matrix.shape != other.matrix.shape:
            raise ValueError("the number of channels differs between samples")
        return Products(self.count + other.count, self.matrix + other.matrix)


_RUN = 1 << 12  # values that are summed in float32; a longer sum would lose digits


def _channel_sums(cube: np.ndarray) -> np.ndarray:
    """Sums over the first and last axis, in float64 over short float32 runs: fast, and as good as float64."""
    outer, channels, inner = cube.shape
    total = np.zeros(channels)
    if inner > 1:
        for start in range(0, inner, _RUN):
            rows = np.einsum("ncl->nc", cube[:, :, start : start + _RUN])  # a third of the time of np.sum
            total += rows.sum(axis=0, dtype=np.float64)
        return total
    flat = cube.reshape(outer, channels)
    run = 64
    whole = outer - outer % run
    if whole:
        runs = flat[:whole].reshape(-1, run, channels).sum(axis=1)
        total += runs.sum(axis=0, dtype=np.float64)
    total += flat[whole:].sum(axis=0, dtype=np.float64)
    return total
