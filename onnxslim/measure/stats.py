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
    epochs: Sequence[Array], *, seed: int = 0, resamples: int = 1000, tail: float | None = None
) -> tuple[float, float]:
    """95 % interval of :func:`pooled_median`, resampling epochs and then rounds within each.

    Args:
        epochs: one array of per-round values for each epoch.
        tail: the share of the bootstrap distribution left out on each side.  By default it shrinks with the
            number of epochs ("expanded percentile"), since few of them show too little of their variation;
            with three, the interval reaches from the lowest to the highest resampled median.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8; the expansion
    from Hesterberg, What Teachers Should Know About the Bootstrap (2015), doi:10.1080/00031305.2015.1089789.

    Example:
        >>> nested_bootstrap([np.zeros(5), np.zeros(7)])
        (0.0, 0.0)
    """
    rng = np.random.default_rng(seed)
    rounds = [np.asarray(epoch, np.float64) for epoch in epochs]
    medians = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(len(rounds), size=len(rounds))
        sample = [rounds[e][rng.integers(len(rounds[e]), size=len(rounds[e]))] for e in chosen]
        medians[i] = np.median(np.concatenate(sample))
    tail = _expanded_tail(len(rounds)) if tail is None else tail
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


# 0.975 quantiles of Student's t for 1, 2, ... degrees of freedom
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_NORMAL = 1.959963984540054


def _expanded_tail(n: int) -> float:
    if n < 2:
        return 0.0
    t = _STUDENT[n - 2] if n - 2 < len(_STUDENT) else _NORMAL + 2.37 / (n - 1)
    return 0.5 * math.erfc(math.sqrt(n / (n - 1)) * t / math.sqrt(2))


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
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: int, n: int, *, z: float = _NORMAL) -> tuple[float, float]:
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
