"""What is kept of a tensor's values: small states that merge, whatever the order of the data.

A state never grows with the data.  Range and histogram are functions of the set of values alone, so that any
grouping of the samples gives the same bits; the rest are floating-point sums, for which the runner fixes the
grouping (see :mod:`onnxslim.calibration.runner`).

Runs in the worker process: imports numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from onnxslim.calibration.moments import Bounds, Moments, Products, bounds_of

__all__ = ["BINS", "Extremes", "Histogram", "TensorState"]

BINS = 4096
_BLOCK = 1 << 15  # values per step: the scratch arrays stay in the cache
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
    def of(cls, values: np.ndarray, bounds: Bounds | None = None) -> Histogram:
        """Of finite values, any shape and any float type.

        Args:
            bounds: what ``bounds_of`` gives, where it is known.

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
        low, high = bounds or bounds_of(flat)
        low, high = low + 0.0, high + 0.0  # -0.0 becomes 0.0
        exponent = _exponent(low, high)
        first = _bin(low, exponent)
        counts = np.zeros(_bin(high, exponent) - first + 1, np.int64)
        if not -126 <= exponent <= 0:  # in float32 the factor, or a tiny negative value times it, becomes 0
            flat = flat.astype(np.float64)
        factor, offset = flat.dtype.type(2.0**-exponent), flat.dtype.type(first)
        for start in range(0, flat.size, _BLOCK):
            index = flat[start : start + _BLOCK] * factor  # exact: a power of two
            if low < 0:  # else the cast to integers rounds down by itself
                np.floor(index, out=index)
            index -= offset  # exact: less than BINS is left of what both have in their last places
            # a cast to 32 bits has a vector instruction; np.bincount would read the indices twice
            np.add.at(counts, index.astype(np.int32).astype(np.intp), 1)
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
            if part.exponent == exponent:  # the usual case: a feed like those before it
                start = part.first - first
                counts[start : start + len(part.counts)] += part.counts
                continue
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


@dataclass(frozen=True, slots=True)
class Extremes:
    """The mean over feeds of each feed's smallest and largest value; ``feeds`` is their number."""

    feeds: int
    low: float
    high: float

    def merge(self, other: Extremes) -> Extremes:
        """The means over both sets of feeds."""
        if not self.feeds or not other.feeds:
            return self if self.feeds else other
        feeds = self.feeds + other.feeds
        ours, theirs = self.feeds / feeds, other.feeds / feeds  # weights, since a sum could overflow
        return Extremes(feeds, self.low * ours + other.low * theirs, self.high * ours + other.high * theirs)


@dataclass(frozen=True, slots=True)
class TensorState:
    """All that is kept of one tensor.

    ``moments`` and ``products`` are None where nobody asked for them, and where the channels differ between
    samples.
    """

    histogram: Histogram
    extremes: Extremes
    moments: Moments | None
    products: Products | None = None

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        axis: int | None,
        *,
        moments: bool = True,
        products: bool = False,
        bounds: Bounds | None = None,
    ) -> TensorState:
        """Of the values of one feed.

        Args:
            axis: of the channels; None for a tensor without.
            moments: whether to keep the moments of the channels.
            products: whether to keep the products of all pairs of channels.
            bounds: what ``bounds_of`` gives, where it is known.
        """
        bounds = bounds or bounds_of(values)
        histogram = Histogram.of(values, bounds)
        return cls(
            histogram,
            Extremes(1, histogram.low, histogram.high) if values.size else Extremes(0, 0.0, 0.0),
            Moments.of(values, axis, bounds) if moments and axis is not None else None,
            Products.of(values, axis) if products and axis is not None else None,
        )

    def merge(self, other: TensorState) -> TensorState:
        return TensorState(
            self.histogram.merge(other.histogram),
            self.extremes.merge(other.extremes),
            _merged(self.moments, other.moments),
            _merged(self.products, other.products),
        )


_Sums = TypeVar("_Sums", Moments, Products)


def _merged(one: _Sums | None, other: _Sums | None) -> _Sums | None:
    if one is None or other is None:
        return None
    try:
        return one.merge(other)
    except ValueError:  # other channels
        return None
