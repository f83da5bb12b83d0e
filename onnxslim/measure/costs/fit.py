"""Non-negative least squares on relative errors: times as sums of work times cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["fit_costs", "non_negative_least_squares"]

Array = npt.NDArray[Any]
Row = Mapping[str, float]

_TOLERANCE = 1e-10
_PASSES = 8  # of re-weighting; they settle after three or four


def non_negative_least_squares(a: Array, b: Array) -> Array:
    """``x >= 0`` with the least ``|a x - b|``.

    Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23.

    Args:
        a: ``[rows, columns]``.
        b: ``[rows]``.

    Example:
        >>> non_negative_least_squares(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -3.0])).tolist()
        [2.0, 0.0]
    """
    columns = a.shape[1]
    x, free = np.zeros(columns), np.zeros(columns, bool)
    gram, target = a.T @ a, a.T @ b  # small, where ``a`` has a row for every time
    gradient = target
    limit = _TOLERANCE * max(1.0, float(np.abs(gradient).max(initial=0.0)))
    for _ in range(3 * columns + 1):
        if free.all() or float(gradient[~free].max()) <= limit:
            break
        free[np.argmax(np.where(free, -np.inf, gradient))] = True
        while True:
            trial = np.zeros(columns)
            trial[free] = np.linalg.lstsq(gram[np.ix_(free, free)], target[free], rcond=None)[0]
            negative = free & (trial <= 0)
            if not negative.any():
                break
            step = float((x[negative] / (x[negative] - trial[negative])).min())
            x = x + step * (trial - x)
            free &= x > _TOLERANCE
            x[~free] = 0.0
            if not free.any():
                break
        x = trial
        gradient = target - gram @ x
    return x


def fit_costs(rows: Sequence[Row], times: Sequence[float]) -> tuple[dict[str, float], Array]:
    """The cost of every kind of work, and the relative error of each time.

    Errors are relative, so that small nodes count as much as large ones, and a few times that something
    disturbed are weighed down (Huber's weights).

    Args:
        rows: kind of work -> amount, one per model.
        times: of the models, above 0.

    Returns:
        ``{kind: cost}``, and per model ``fitted / measured - 1``.

    Example:
        >>> costs, errors = fit_costs([{"a": 1.0}, {"a": 2.0, "b": 1.0}], [3.0, 7.0])
        >>> {kind: round(cost, 3) for kind, cost in costs.items()}
        {'a': 3.0, 'b': 1.0}
    """
    kinds = sorted({kind for row in rows for kind in row})
    measured = np.asarray(times, np.float64)
    a = np.array([[row.get(kind, 0.0) for kind in kinds] for row in rows]) / measured[:, None]
    size = np.linalg.norm(a, axis=0)
    size[size == 0] = 1.0
    a = a / size
    weight, x = np.ones(len(rows)), np.zeros(len(kinds))
    for _ in range(_PASSES):
        x = non_negative_least_squares(a * weight[:, None], weight)
        error = np.abs(a @ x - 1)
        usual = max(1.5 * float(np.median(error)), 1e-9)
        weight = np.sqrt(np.minimum(1.0, usual / np.maximum(error, 1e-12)))
    return dict(zip(kinds, (x / size).tolist(), strict=True)), a @ x - 1
