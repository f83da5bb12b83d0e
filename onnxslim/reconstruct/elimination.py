"""Take inputs away from a product, each time those that the others can best stand in for.

Optimal brain surgeon with ``X^T X`` as the Hessian (Hassibi and Stork, 1993; Frantar and Alistarh, "Optimal
Brain Compression", 2022): what is left is the least-squares fit of the product on the inputs that stay, and
the inverse is kept up to date instead of being computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Elimination"]

Array = npt.NDArray[Any]

_DAMPING = 1e-3  # of the mean of the diagonal


@dataclass
class Elimination:
    """The state of one product while atoms are taken from it.

    Args:
        weight: ``[groups, length, outputs]``, float64; the last row of each group may be a bias.
        moments: ``X^T X``, ``[groups, length, length]``.
        rows: indices into the flattened ``[groups * length]`` of each atom, ``[atoms, rows]``; those of one
            atom in one group lie together.
        damping: added to the diagonal, as a share of its mean.

    Attributes:
        energy: of the product's output, its mean aside if there is a bias: what errors are relative to.

    Example:
        >>> x = np.array([[1.0, 2.0, 0.1], [2.0, 4.0, 0.0], [3.0, 6.1, 0.1], [4.0, 7.9, 0.2]])
        >>> state = Elimination(np.ones((1, 3, 1)), (x.T @ x)[None], np.array([[0], [1], [2]]), damping=0)
        >>> bool(state.costs()[0] < 1e-3)  # the second input is nearly twice the first
        True
    """

    weight: Array
    moments: Array
    rows: npt.NDArray[np.int64]
    damping: float = _DAMPING
    centred: bool = False
    energy: float = field(init=False)

    def __post_init__(self) -> None:
        self.weight = self.weight.astype(np.float64)
        diagonal = np.einsum("gii->gi", self.moments)
        added = self.damping * diagonal.mean(axis=1) + 1e-9 * diagonal.max(axis=1) + np.finfo(np.float64).tiny
        regular = self.moments + added[:, None, None] * np.eye(self.moments.shape[1])
        self.inverse: Array = np.linalg.inv(regular)
        energy = np.einsum("glo,glo->", self.weight, self.moments @ self.weight)
        if self.centred:  # the last row belongs to a column of ones
            sums = np.einsum("gl,glo->go", self.moments[:, -1], self.weight)
            energy -= float((sums**2 / np.maximum(self.moments[:, -1, -1:], 1)).sum())
        self.energy = max(float(energy), float(np.finfo(np.float64).tiny))

    def costs(self, atoms: npt.NDArray[np.int64] | None = None) -> Array:
        """What taking away each atom alone, of all or of some, would add to the error, as a share of the
        energy; ``[atoms]``."""
        length = self.weight.shape[1]
        rows = self.rows if atoms is None else self.rows[atoms]
        found = np.zeros(len(rows))
        for part in self._parts(rows):
            group, at = part[:, :1] // length, part % length
            block = self.inverse[group[:, :, None], at[:, :, None], at[:, None, :]]
            weight = self.weight[group, at]
            found += np.einsum("aro,aro->a", weight, _solve(block, weight))
        return found / self.energy

    def remove(self, atoms: npt.NDArray[np.int64]) -> float:
        """Take atoms away and let the others stand in; returns what that adds to the error."""
        length = self.weight.shape[1]
        flat = self.rows[atoms].reshape(-1)
        cost = 0.0
        for group in np.unique(flat // length):
            at = flat[flat // length == group] % length
            inverse, weight = self.inverse[group], self.weight[group]
            block = inverse[np.ix_(at, at)]
            solved = _solve(block[None], weight[at][None])[0]
            cost += float(np.sum(weight[at] * solved))
            weight -= inverse[:, at] @ solved
            inverse -= inverse[:, at] @ _solve(block[None], inverse[at][None])[0]
            weight[at] = 0
            inverse[at], inverse[:, at] = 0, 0
        return cost / self.energy

    def _parts(self, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """The rows of each atom, cut where they change the group."""
        groups = rows // self.weight.shape[1]
        changes = np.flatnonzero((groups[:, 1:] != groups[:, :-1]).any(axis=0)) + 1
        return np.split(rows, changes, axis=1)


def _solve(block: Array, right: Array) -> Array:
    """What is gone already has rows of zeros: it costs nothing."""
    gone = np.einsum("aii->ai", block) == 0
    return np.linalg.solve(block + np.eye(block.shape[1]) * gone[:, None, :], right)
