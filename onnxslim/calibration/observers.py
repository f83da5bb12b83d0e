"""What is kept of a tensor's values: small states that merge, whatever the order of the data.

A state never grows with the data.  Range and histogram are functions of the set of values alone, so that any
grouping of the samples gives the same bits; the moments are floating-point sums, for which the runner fixes
the grouping (see :mod:`onnxslim.calibration.runner`).

Runs in the worker process: imports numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BINS", "Histogram", "Moments", "TensorState"]

BINS = 4096
_BLOCK = 1 << 16  # values per step: the scratch arrays stay in the cache
_FINEST = 40  # bins are never narrower than 2**-40 of the largest value: a constant needs no more
_LOWEST_EXPONENT = -960  # nor than this, whose inverse is still a float64


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts over bins of width ``2**exponent``; bin ``i`` holds ``[(first + i), (first + i + 1)) * width``.

    The width is the smallest power of two with which the values span at most ``BINS`` bins.  Widening joins
    neighbours exactly, since bins are aligned at zero; hence merging loses nothing, and the histogram of a
    set of values does not depend on how the set was cut into parts.

    ``low`` and ``high`` are the exact extremes; an empty histogram has ``low > high``.
    """

    low: float
    high: float
    exponent: int
    first: int
    counts: np.ndarray

    @classmethod
    def empty(cls) -> Histogram:
        return cls(math.inf, -math.inf, _LOWEST_EXPONENT, 0, np.zeros(0, np.int64))

    @classmethod
    def of(cls, values: np.ndarray) -> Histogram:
        """Of finite values, any shape and any float type.

        Example:
            >>> histogram = Histogram.of(np.array([0.0, 1.0, 4096.0], np.float32))
            >>> histogram.width, histogram.total
            (2.0, 3)
        """
        flat = values.reshape(-1)
        if flat.size == 0:
            return cls.empty()
        if flat.dtype not in (np.float32, np.float64):
            flat = flat.astype(np.float32)
        low, high = float(flat.min()) + 0.0, float(flat.max()) + 0.0  # -0.0 becomes 0.0
        exponent = _exponent(low, high)
        first = _bin(low, exponent)
        counts = np.zeros(_bin(high, exponent) - first + 1, np.int64)
        if not -126 <= exponent <= 0:  # in float32 the factor, or a tiny negative value times it, becomes 0
            flat = flat.astype(np.float64)
        factor = flat.dtype.type(2.0**-exponent)
        for start in range(0, flat.size, _BLOCK):
            scaled = flat[start : start + _BLOCK] * factor  # exact: a power of two
            index = np.floor(scaled, out=scaled).astype(np.int64)
            index = np.minimum(index - first, counts.size - 1)  # -5e-324 times a factor below 1 is -0.0
            counts += np.bincount(index, minlength=counts.size)
        return cls(low, high, exponent, first, counts)

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def edges(self) -> np.ndarray:
        """The ``len(counts) + 1`` borders of the bins, float64."""
        index = np.arange(self.first, self.first + len(self.counts) + 1).astype(np.float64)
        return index * self.width

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin within the observed range, float64: the value that stands for the bin."""
        edges = np.clip(self.edges, self.low, self.high)
        return np.asarray(edges[:-1] + edges[1:]) / 2

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values."""
        if not other.counts.size:
            return self
        if not self.counts.size:
            return other
        low, high = min(self.low, other.low), max(self.high, other.high)
        exponent = _exponent(low, high)
        first = _bin(low, exponent)
        counts = np.zeros(_bin(high, exponent) - first + 1, np.int64)
        for part in (self, other):
            shift = min(exponent - part.exponent, 63)
            index = (np.arange(part.first, part.first + len(part.counts)) >> shift) - first
            np.add.at(counts, index, part.counts)
        return Histogram(low, high, exponent, first, counts)


def _exponent(low: float, high: float) -> int:
    """The smallest exponent with which ``[low, high]`` spans at most BINS bins; grows with the interval."""
    largest = max(abs(low), abs(high))
    if largest == 0:
        return _LOWEST_EXPONENT
    finest = math.frexp(largest)[1] - _FINEST
    span = high - low
    too_fine = (math.frexp(span)[1] if math.isfinite(span) else 1025) - BINS.bit_length()
    exponent = max(finest, _LOWEST_EXPONENT, too_fine if span else finest)
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    return exponent


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent)) if value else 0


_HUGE = 1e15  # squares and sums of larger values leave float32 (masks of -3.4e38 are common)


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
    def of(cls, values: np.ndarray, axis: int) -> Moments:
        """Of finite values over all axes but ``axis`` (negative counts from the end).

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
        if cube.dtype != np.float64:
            huge = max(-float(cube.min()), float(cube.max())) > _HUGE
            cube = cube.astype(np.float64 if huge else np.float32, copy=False)
        mean = _channel_sums(cube) / count
        # Squares of deviations from (nearly) the mean: sums of squares would cancel.
        centred = cube - mean.astype(cube.dtype)[:, None]
        shift = _channel_sums(centred) / count
        np.multiply(centred, centred, out=centred)
        m2 = np.maximum(_channel_sums(centred) - count * shift**2, 0.0)
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


def _channel_sums(cube: np.ndarray) -> np.ndarray:
    """Sums over the first and last axis, in float64 over short float32 runs: fast, and as good as float64."""
    outer, channels, inner = cube.shape
    if inner > 1:
        rows = cube.sum(axis=2)  # pairwise along contiguous memory
        return np.asarray(rows.sum(axis=0, dtype=np.float64))
    flat = cube.reshape(outer, channels)
    run = 64
    whole = outer - outer % run
    total = np.zeros(channels)
    if whole:
        runs = flat[:whole].reshape(-1, run, channels).sum(axis=1)
        total += runs.sum(axis=0, dtype=np.float64)
    total += flat[whole:].sum(axis=0, dtype=np.float64)
    return total


@dataclass(frozen=True, slots=True)
class TensorState:
    """All that is kept of one tensor; ``moments`` is None where its channels differ between samples."""

    histogram: Histogram
    moments: Moments | None

    @classmethod
    def of(cls, values: np.ndarray, axis: int | None) -> TensorState:
        return cls(Histogram.of(values), None if axis is None else Moments.of(values, axis))

    def merge(self, other: TensorState) -> TensorState:
        moments = None
        if self.moments is not None and other.moments is not None:
            same = self.moments.mean.shape == other.moments.mean.shape
            moments = self.moments.merge(other.moments) if same else None
        return TensorState(self.histogram.merge(other.histogram), moments)

    def to_arrays(self) -> dict[str, Any]:
        """As plain arrays and numbers, for a pipe or a file."""
        h, m = self.histogram, self.moments
        arrays: dict[str, Any] = {
            "range": np.array([h.low, h.high]),
            "bins": np.array([h.exponent, h.first], np.int64),
            "counts": h.counts,
        }
        if m is not None:
            arrays["moments"] = np.stack([m.mean, m.m2, m.mean_abs])
            arrays["channels"] = np.array([m.axis, m.count], np.int64)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> TensorState:
        """The inverse of :meth:`to_arrays`."""
        low, high = (float(v) for v in arrays["range"])
        exponent, first = (int(v) for v in arrays["bins"])
        moments = None
        if "moments" in arrays:
            axis, count = (int(v) for v in arrays["channels"])
            moments = Moments(axis, count, *arrays["moments"])
        return cls(Histogram(low, high, exponent, first, np.asarray(arrays["counts"])), moments)
