"""Ranges for quantizers, computed from what was kept of a tensor after the data has gone through.

All return ``(low, high)`` within the observed range.  ``levels`` is the number of quantized values
(256 for 8 bits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from onnxslim.calibration.observers import Histogram, TensorState
from onnxslim.calibration.sources.base import suggest
from onnxslim.errors import OptionError

__all__ = [
    "Method",
    "calibrated_range",
    "entropy",
    "minmax",
    "moving_average",
    "mse",
    "percentile",
    "quantization_error",
]

Method = Literal["minmax", "moving-average", "percentile", "mse", "entropy"]


def calibrated_range(
    state: TensorState,
    method: Method = "minmax",
    *,
    levels: int = 256,
    percent: float = 99.99,
    symmetric: bool = False,
) -> tuple[float, float]:
    """The range that ``method`` finds for a tensor.

    Raises:
        OptionError: an unknown method or a percentage outside (0, 100].

    Example:
        >>> calibrated_range(TensorState.of(np.array([-1.0, 3.0], np.float32), axis=None))
        (-1.0, 3.0)
    """
    histogram = state.histogram
    methods: dict[str, Callable[[], tuple[float, float]]] = {
        "minmax": lambda: minmax(histogram),
        "moving-average": lambda: moving_average(state),
        "percentile": lambda: percentile(histogram, percent),
        "mse": lambda: mse(histogram, levels, symmetric=symmetric),
        "entropy": lambda: entropy(histogram, levels),
    }
    if method not in methods:
        raise OptionError(f"unknown calibration method '{method}'", hint=suggest(method, get_args(Method)))
    if not histogram.counts.size:
        return 0.0, 0.0
    return methods[method]()


def minmax(histogram: Histogram) -> tuple[float, float]:
    """The exact extremes."""
    return histogram.low, histogram.high


def moving_average(state: TensorState) -> tuple[float, float]:
    """The mean of the feeds' own extremes: what a single odd feed stretches little.

    All feeds weigh the same, as in onnxruntime's ``CalibMovingAverage`` without its intermediate ranges; an
    exponential average would depend on the order of the data, and mostly on its first or last feeds.
    """
    low, high = state.extremes.low, state.extremes.high
    return max(low, state.histogram.low), min(high, state.histogram.high)  # rounding


def percentile(histogram: Histogram, percent: float = 99.99) -> tuple[float, float]:
    """The central ``percent`` of the values; half of the rest is clipped on each side.

    Within one bin's width of ``numpy.quantile`` on the values.
    """
    if not 0 < percent <= 100:
        raise OptionError(f"a percentage must lie in (0, 100], not {percent}")
    tail = (100 - percent) / 200 * histogram.total
    below = np.concatenate([[0], np.cumsum(histogram.counts)]).astype(np.float64)
    edges = np.clip(histogram.edges, histogram.low, histogram.high)
    # The cumulative counts rise only in occupied bins; interpolate between those.
    low = edges[np.searchsorted(below, tail, side="right") - 1] if tail else histogram.low
    high = edges[np.searchsorted(below, below[-1] - tail, side="left")] if tail else histogram.high
    return float(low), float(max(low, high))


def mse(histogram: Histogram, levels: int = 256, *, symmetric: bool = False) -> tuple[float, float]:
    """The range with the smallest mean squared error of quantizing, clipping included.

    Asymmetric ranges are searched in both ends at once: first by the estimate ``step**2 / 12`` for what is
    rounded plus the exact error of what is clipped, then the best of these by the quantizer itself.
    """
    fractions = np.concatenate([np.linspace(1.0, 0.5, 48), np.geomspace(0.5, 1e-3, 48)[1:]])
    top, bottom = max(histogram.high, 0.0), min(histogram.low, 0.0)
    if symmetric:
        bound = max(top, -bottom) * fractions
        candidates = np.stack([-bound, bound], axis=1)
    else:
        lows = bottom * fractions if bottom else np.zeros(1)
        highs = top * fractions if top else np.zeros(1)
        candidates = np.stack(np.meshgrid(lows, highs), axis=-1).reshape(-1, 2)
    best = np.argsort(_estimated_error(histogram, candidates, levels), kind="stable")[:48]
    candidates = np.concatenate([candidates[:1], candidates[best]])  # the whole range always takes part
    errors = [quantization_error(histogram, low, high, levels) for low, high in candidates]
    low, high = candidates[int(np.argmin(errors))]
    return max(float(low), histogram.low), min(float(high), histogram.high)


def quantization_error(histogram: Histogram, low: float, high: float, levels: int = 256) -> float:
    """Mean squared error of an affine quantizer over ``[low, high]`` widened to hold 0, as QuantizeLinear
    rounds and saturates (onnx operator QuantizeLinear, 21), on the histogram's bins."""
    low, high = min(low, 0.0), max(high, 0.0)
    values, counts = histogram.centres, histogram.counts
    if high == low:
        return float((counts * values**2).sum() / counts.sum())
    scale = (high - low) / (levels - 1)
    zero = np.rint(-low / scale)
    restored = (np.clip(np.rint(values / scale) + zero, 0, levels - 1) - zero) * scale
    return float((counts * (values - restored) ** 2).sum() / counts.sum())


def _estimated_error(histogram: Histogram, candidates: np.ndarray, levels: int) -> np.ndarray:
    """For candidates ``[n, 2]``, in one pass by cumulative moments."""
    values, counts = histogram.centres, histogram.counts.astype(np.float64)
    near_zero = np.abs(values) <= histogram.width  # zeros (ReLU) are represented exactly
    rounded = np.concatenate([[0.0], np.cumsum(np.where(near_zero, 0.0, counts))])
    sums = [np.concatenate([[0.0], np.cumsum(counts * values**k)]) for k in range(3)]
    first = np.searchsorted(values, candidates[:, 0], side="left")
    last = np.searchsorted(values, candidates[:, 1], side="right")

    def clipped(bound: np.ndarray, start: np.ndarray | int, stop: np.ndarray | int) -> np.ndarray:
        s0, s1, s2 = (s[stop] - s[start] for s in sums)
        return np.asarray(np.maximum(s2 - 2 * bound * s1 + bound**2 * s0, 0.0))

    step = (candidates[:, 1] - candidates[:, 0]) / (levels - 1)
    inside = (rounded[last] - rounded[first]) * step**2 / 12
    return np.asarray(
        inside + clipped(candidates[:, 0], 0, first) + clipped(candidates[:, 1], last, len(values))
    )


def entropy(histogram: Histogram, levels: int = 256) -> tuple[float, float]:
    """The range whose quantized distribution loses the least information (Kullback-Leibler divergence).

    Thresholds on the magnitude are tried from the narrowest span that has more bins than ``levels``, so
    that there is something to lose, up to the whole range (Migacz, "8-bit inference with TensorRT", 2017).
    A tensor with fewer bins than ``levels`` keeps its whole range.
    """
    counts, edges = histogram.counts, histogram.edges
    largest = max(-histogram.low, histogram.high)
    best, found = np.inf, minmax(histogram)
    for fraction in np.linspace(1.0, 1 / 64, 127):
        start = int(np.searchsorted(edges, -largest * fraction, side="left"))
        stop = int(np.searchsorted(edges, largest * fraction, side="right")) - 1
        start, stop = (0, len(counts)) if fraction == 1 else (start, stop)
        if stop - start <= levels:
            continue
        loss = _divergence(counts, start, stop, levels)
        if loss < best:
            best, found = loss, (float(edges[start]), float(edges[stop]))
    return max(found[0], histogram.low), min(found[1], histogram.high)


def _divergence(counts: np.ndarray, start: int, stop: int, levels: int) -> float:
    """KL(P || Q): P is ``counts`` clipped to bins ``start:stop``, Q spreads each level over its bins."""
    inner = counts[start:stop].astype(np.float64)
    clipped = inner.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[stop:].sum()
    level = np.arange(len(inner)) * levels // len(inner)
    occupied = inner > 0
    mass = np.bincount(level, inner, levels)
    bins = np.bincount(level, occupied, levels)
    spread = np.where(occupied, (mass / np.maximum(bins, 1))[level], 0.0)
    if not spread.any():
        return float(np.inf)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    used = p > 0
    # An edge bin that holds nothing but clipped values has no mass in Q: a large but finite loss.
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-9))).sum())
