"""Fit the weight of a product so that from changed inputs it gives the outputs that it used to give.

The closed form of layer-wise reconstruction (He et al., "Channel Pruning for Accelerating Very Deep Neural
Networks", 2017, step 2): least squares, damped towards the weights that are there (Tikhonov).  Of the data no
more is needed than the sums ``X^T X`` and ``X^T Y``, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DAMPINGS", "Fit", "Sums", "fit", "with_ones"]

Array = npt.NDArray[Any]

DAMPINGS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass
class Sums:
    """Sums over rows, for each group: of ``X^T X``, ``X^T Y`` and the squares of Y.

    Attributes:
        inputs: ``[groups, length, length]``, float64.
        products: ``[groups, length, outputs]``.
        energy: of the targets, ``[groups, outputs]``: about their mean, if X has a column of ones.
        count: of rows.
    """

    inputs: Array
    products: Array
    energy: Array
    count: int = 0

    @classmethod
    def empty(cls, groups: int, length: int, outputs: int) -> Sums:
        """Of no rows."""
        return cls(
            np.zeros((groups, length, length)),
            np.zeros((groups, length, outputs)),
            np.zeros((groups, outputs)),
        )

    def add(self, x: Array, y: Array) -> None:
        """Add rows: ``[groups, rows, length]`` and ``[groups, rows, outputs]``.

        Example:
            >>> sums = Sums.empty(1, 2, 1)
            >>> sums.add(np.array([[[1.0, 2.0]]]), np.array([[[3.0]]]))
            >>> sums.products.ravel(), sums.count
            (array([3., 6.]), 1)
        """
        x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
        turned = x.swapaxes(1, 2)
        self.inputs += turned @ x
        self.products += turned @ y
        self.energy += np.einsum("gro,gro->go", y, y)
        self.count += x.shape[1]

    def merged(self, other: Sums) -> Sums:
        """The sums over both sets of rows."""
        return Sums(
            self.inputs + other.inputs,
            self.products + other.products,
            self.energy + other.energy,
            self.count + other.count,
        )

    def error(self, weight: Array) -> float:
        """The squared error of ``X @ weight`` against Y.

        Example:
            >>> sums = Sums.empty(1, 1, 1)
            >>> sums.add(np.array([[[1.0], [2.0]]]), np.array([[[1.0], [3.0]]]))
            >>> sums.error(np.array([[[1.0]]]))
            1.0
        """
        explained = np.sum(weight * (self.inputs @ weight - 2 * self.products))
        return max(float(explained + np.sum(self.energy)), 0.0)


@dataclass(frozen=True)
class Fit:
    """A fitted weight ``[groups, length, outputs]``, and what it does to the error on held-out rows.

    ``damping`` is None where nothing was better than the weight that there was.
    """

    weight: Array
    damping: float | None
    before: float
    after: float


def with_ones(x: Array) -> Array:
    """Rows ``[groups, rows, length]`` with a last column of ones, for the bias."""
    return np.concatenate([x, np.ones((*x.shape[:2], 1), x.dtype)], axis=2)


def fit(
    sums: Sums,
    held_out: Sums,
    weight: Array,
    *,
    bias: bool,
    dampings: Sequence[float] = DAMPINGS,
) -> Fit:
    """Minimise ``|X W - Y|^2 + d * mean(diag(X^T X)) * |W - weight|^2``, with ``d`` chosen on held-out rows.

    Args:
        sums: of the rows to fit on.
        held_out: of other rows.
        weight: what there is, ``[groups, length, outputs]``.
        bias: the last row of the weight is a bias, with a column of ones in X; it is not damped.
        dampings: to choose among.

    Returns:
        The fit on all rows with the best damping; the weight itself where none lowers the held-out error.

    Example:
        >>> random = np.random.default_rng(0)
        >>> x, wanted = random.normal(size=(1, 64, 3)), np.array([[[1.0], [2.0], [-1.0]]])
        >>> halves = [Sums.empty(1, 3, 1) for _ in range(2)]
        >>> for half, rows in zip(halves, np.split(x, 2, axis=1)):
        ...     half.add(rows, rows @ wanted)
        >>> bool(np.abs(fit(*halves, np.zeros((1, 3, 1)), bias=False).weight - wanted).max() < 1e-5)
        True
    """
    weight = weight.astype(np.float64)
    before = least = held_out.error(weight)
    best = None
    for damping in dampings:
        error = held_out.error(_solve(sums, weight, damping, bias))
        if error < least:  # false for NaN
            best, least = damping, error
    if best is None:
        return Fit(weight, None, before, before)
    return Fit(_solve(sums.merged(held_out), weight, best, bias), best, before, least)


def _solve(sums: Sums, weight: Array, damping: float, bias: bool) -> Array:
    """Solved for what is added to the weight, so that damping pulls towards the weight."""
    length = sums.inputs.shape[1]
    damped = length - bias
    diagonal = np.einsum("gii->gi", sums.inputs)
    mean = diagonal[:, :damped].mean(axis=1) if damped else np.zeros(len(diagonal))
    added = np.zeros((len(diagonal), length))
    added[:, :damped] = damping * mean[:, None]
    tiny = np.finfo(np.float64).eps * length * diagonal.max(axis=1, initial=0.0) + np.finfo(np.float64).tiny
    regular = sums.inputs.copy()
    np.einsum("gii->gi", regular)[:] += np.maximum(added, tiny[:, None])
    rest = sums.products - sums.inputs @ weight
    try:
        return weight + np.linalg.solve(regular, rest)
    except np.linalg.LinAlgError:
        return np.full_like(weight, np.nan)
