"""Merge channels: let those that stay stand in for those that go, alike wherever they are used.

A channel that goes is written as a sum of kept ones and a constant, ``x_j ~ sum_k m_jk x_k + c_j``; what used
it then uses them: ``W[:, k] += m_jk W[:, j]``.  The mixing matrix is the ridge regression of the channels on
each other, which needs no more than their second moments; with one k for each j it is the neuron merging of
Kim et al., "Neuron Merging: Compensating for Pruned Neurons", 2020.  A product with a window has one mixing
matrix for all its positions, where fitting it anew has a weight for each: less to gain, less to overfit.

The last row and column of second moments belong to a constant one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["into_many", "into_one", "pair_errors", "pair_order", "position_moments", "rectified_moments"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

_DAMPING = 1e-3  # of the mean of the diagonal
_ROUNDING = 1e-12  # of a channel's energy is never explained: of equals, the quieter goes first


def position_moments(moments: Array, rows: Indices) -> Array:
    """Second moments of atoms, summed over the positions at which a product sees them.

    Args:
        moments: ``[groups, length + 1, length + 1]``, of what a product gets, with a last column of ones.
        rows: of each atom, indices into the flattened ``[groups * length]``, ``[atoms, positions]``.

    Returns:
        ``[atoms + 1, atoms + 1]``; zero between atoms that are never in one group.

    Example:
        >>> x = np.array([[1.0, 2.0, 1.0], [3.0, 4.0, 1.0]])
        >>> position_moments((x.T @ x)[None], np.array([[0], [1]])).tolist()
        [[10.0, 14.0, 4.0], [14.0, 20.0, 6.0], [4.0, 6.0, 2.0]]
    """
    atoms, length = len(rows), moments.shape[1] - 1
    found = np.zeros((atoms + 1, atoms + 1))
    for place in rows.T:
        group, at = place // length, place % length
        same = group[:, None] == group[None]
        found[:-1, :-1] += np.where(same, moments[group[:, None], at[:, None], at[None]], 0.0)
        found[:-1, -1] += moments[group, at, -1]
        found[-1, -1] += moments[0, -1, -1]
    found[-1, :-1] = found[:-1, -1]
    return found


def rectified_moments(weights: Array, *, rectified: bool = True) -> Array:
    """What the second moments of channels would be on normal inputs, from the weights that make them.

    Args:
        weights: ``[atoms, inputs]``, with the bias as the weight of one more input.
        rectified: behind ``max(0, x)``, by the arc-cosine kernel (Cho and Saul, "Kernel Methods for Deep
            Learning", 2009, order 1); otherwise the products of the weights.

    Example:
        >>> rectified_moments(np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])).round(2).tolist()[0]
        [0.5, 1.0, 0.0, 0.4]
    """
    inner = weights @ weights.T
    size = np.sqrt(np.diag(inner))
    found = np.zeros((len(weights) + 1, len(weights) + 1))
    found[-1, -1] = 1.0
    if not rectified:
        found[:-1, :-1] = inner
        return found
    scale = np.maximum(np.outer(size, size), np.finfo(np.float64).tiny)
    cosine = np.clip(inner / scale, -1.0, 1.0)
    angle = np.arccos(cosine)
    found[:-1, :-1] = scale * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    found[:-1, -1] = found[-1, :-1] = size / np.sqrt(2 * np.pi)
    return found


def into_many(moments: Array, kept: Indices, gone: Indices, *, constant: bool) -> Array:
    """Each channel that goes as a sum of all kept ones, ``[gone, kept + 1]``; the last column is constant.

    Args:
        constant: whether there may be one.

    Example:
        >>> x = np.array([[1.0, 2.0, 4.0], [3.0, 0.0, 4.0], [1.0, 1.0, 3.0], [0.0, 5.0, 6.0]])
        >>> x = np.concatenate([x, np.ones((4, 1))], axis=1)  # the third is the sum of the others, and one
        >>> into_many(x.T @ x, np.array([0, 1]), np.array([2]), constant=True).round(1).tolist()
        [[1.0, 1.0, 1.0]]
    """
    mixing = np.zeros((len(gone), len(kept) + 1))
    if not len(gone) or not len(kept):
        return mixing
    centred, mean = _centred(moments, constant)
    square = centred[np.ix_(kept, kept)]
    diagonal = np.diag(square)
    added = _DAMPING * diagonal.mean() + 1e-9 * diagonal.max() + np.finfo(np.float64).tiny
    damped = square + added * np.eye(len(kept))
    mixing[:, :-1] = np.linalg.solve(damped, centred[np.ix_(kept, gone)]).T
    mixing[:, -1] = mean[gone] - mixing[:, :-1] @ mean[kept]
    return mixing


def into_one(moments: Array, kept: Indices, gone: Indices, partners: Indices, *, constant: bool) -> Array:
    """Each channel that goes as a multiple of one kept one, ``[gone, kept + 1]``.

    Args:
        partners: for each of ``gone`` an index into ``kept``.
        constant: whether there may be a constant too.

    Example:
        >>> x = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 1.0]])
        >>> into_one(x.T @ x, np.array([0]), np.array([1]), np.array([0]), constant=False).tolist()
        [[2.0, 0.0]]
    """
    mixing = np.zeros((len(gone), len(kept) + 1))
    centred, mean = _centred(moments, constant)
    chosen = kept[partners]
    energy = centred[chosen, chosen]
    factor = np.where(energy > 0, centred[chosen, gone] / np.where(energy > 0, energy, 1), 0.0)
    mixing[np.arange(len(gone)), partners] = factor
    mixing[:, -1] = mean[gone] - factor * mean[chosen]
    return mixing


def pair_errors(moments: Array, weights: Array, *, constant: bool) -> Array:
    """What it adds to the error of a product if channel j becomes the best multiple of channel k, ``[j, k]``.

    Args:
        weights: ``[atoms, ...]``, what the product multiplies each channel with.

    Example:
        >>> x = np.array([[1.0, 2.0, 0.0, 1.0], [2.0, 4.0, 3.0, 1.0]])
        >>> pair_errors(x.T @ x, np.ones((3, 1)), constant=False).round(3).tolist()[0]
        [inf, 0.0, 1.0]
    """
    centred, _ = _centred(moments, constant)
    energy = np.diag(centred)
    explained = centred**2 / np.where(energy > 0, energy, np.inf)[None]
    left = np.maximum(energy[:, None] - explained, _ROUNDING * energy[:, None])
    used = np.square(weights.reshape(len(weights), -1)).sum(axis=1)
    errors: Array = left * used[:, None]
    np.fill_diagonal(errors, np.inf)
    return errors


def pair_order(errors: Array) -> Array:
    """The error that is reached when each channel goes: each time the pair that adds least is merged.

    A channel that others were merged into stays as long as there are pairs without such.

    Example:
        >>> errors = np.array([[np.inf, 1.0, 9.0], [1.5, np.inf, 9.0], [5.0, 4.0, np.inf]])
        >>> pair_order(errors).tolist()
        [1.0, inf, 5.0]
    """
    atoms = len(errors)
    left = errors.copy()
    score = np.full(atoms, np.inf)
    partner, least = left.argmin(axis=1), left.min(axis=1)
    waiting, total = np.ones(atoms, np.bool_), 0.0
    while waiting.any():
        at = int(np.argmin(np.where(waiting, least, np.inf)))
        if not np.isfinite(least[at]):
            break
        total += float(least[at])
        score[at] = total
        waiting[[at, partner[at]]] = False
        left[:, at] = np.inf  # nothing may be merged into what is gone
        for other in np.flatnonzero(waiting & (partner == at)):
            partner[other], least[other] = left[other].argmin(), left[other].min()
    return score


def _centred(moments: Array, constant: bool) -> tuple[Array, Array]:
    """Moments about the mean, and the mean; about zero where there is no constant."""
    square = moments[:-1, :-1]
    if not constant or not moments[-1, -1] > 0:
        return square, np.zeros(len(square))
    mean = moments[:-1, -1] / moments[-1, -1]
    return square - np.outer(mean, moments[:-1, -1]), mean
