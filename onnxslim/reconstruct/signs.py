"""Two values that stand for all values of a tensor: the sign beside a threshold, scaled and shifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Levels", "two_levels"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Levels:
    """``high`` above ``threshold``, else ``low``: ``scale * sign(x - threshold) + offset``."""

    low: float
    high: float

    @property
    def threshold(self) -> float:
        """The middle: each value goes to the nearer level."""
        return (self.low + self.high) / 2

    def quantize(self, values: Array) -> npt.NDArray[np.float32]:
        """As the nodes compute it, in float32."""
        low, high, threshold = (np.float32(each) for each in (self.low, self.high, self.threshold))
        return np.where(values.astype(np.float32) > threshold, high, low)


def two_levels(values: Array, counts: Array) -> Levels | None:
    """The two levels with the least squared error: the exact solution of k-means with two centers on a line.

    All cuts are tried; the best one is that with the most variance between its sides (Otsu, "A threshold
    selection method from gray-level histograms", 1979).

    Args:
        values: sorted, finite.
        counts: how often each value was seen.

    Returns:
        None where fewer than two values were seen.

    Example:
        >>> two_levels(np.array([0.0, 1.0, 5.0, 7.0]), np.array([3, 1, 1, 1]))
        Levels(low=0.25, high=6.0)
    """
    seen = counts > 0
    values, mass = values[seen].astype(np.float64), counts[seen].astype(np.float64)
    if len(values) < 2:
        return None
    below, sums = np.cumsum(mass), np.cumsum(mass * values)
    above, rest = below[-1] - below[:-1], sums[-1] - sums[:-1]
    low, high = sums[:-1] / below[:-1], rest / above
    best = int(np.argmax(below[:-1] * above * np.square(high - low)))
    return Levels(float(low[best]), float(high[best]))
