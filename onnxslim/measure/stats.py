"""The statistics of measuring: medians of paired rounds, their intervals, and intervals of scores.

Calls are never resampled: on a machine with other work they are not independent, and an interval over them is
far too narrow.  Rounds within an epoch share a process and its memory layout, so epochs are resampled first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["bootstrap_interval", "nested_bootstrap", "pooled_median", "wilson_interval"]

Array = np.ndarray[Any, Any]


def pooled_median(epochs: Sequence[Array]) -> float:
    """The median over the rounds of all epochs together."""
    return float(np.median(np.concatenate([np.asarray(epoch, np.float64) for epoch in epochs])))


def nested_bootstrap(
    epochs: Sequence[Array], *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of :func:`pooled_median`, resampling epochs and then rounds within each.

    Args:
        epochs: one array of per-round values for each epoch.
        level: coverage aimed at; with few epochs the interval reaches from one epoch's median to another's.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8.

    Example:
        >>> nested_bootstrap([np.zeros(5), np.zeros(7)])
        (0.0, 0.0)
    """
    rng = np.random.default_rng(seed)
    rounds = [np.asarray(epoch, np.float64) for epoch in epochs]
    medians = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(len(rounds), size=len(rounds))
        medians[i] = np.median(np.concatenate([rng.choice(rounds[e], len(rounds[e])) for e in chosen]))
    return _percentiles(medians, level)


def bootstrap_interval(
    values: Sequence[float] | Array,
    statistic: Callable[[Array], float] = lambda sample: float(np.mean(sample)),
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of independent values.

    Example:
        >>> bootstrap_interval([1.0, 1.0, 1.0])
        (1.0, 1.0)
    """
    rng = np.random.default_rng(seed)
    data = np.asarray(values, np.float64)
    found = [statistic(data[rng.integers(len(data), size=len(data))]) for _ in range(resamples)]
    return _percentiles(np.array(found), level)


def _percentiles(values: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: int, n: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Interval of a proportion, sound near 0 and 1 too.

    Source: Wilson, Probable inference (1927), doi:10.1080/01621459.1927.10502953.

    Example:
        >>> [round(x, 3) for x in wilson_interval(10, 10)]
        [0.722, 1.0]
    """
    if n <= 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
