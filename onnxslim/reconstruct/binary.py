"""Weights as few signs: ``w ~ a_1 * b_1 + ... + a_k * b_k``, where every ``b`` is -1 or +1.

Each output of a product has scales of its own, for all that it sums up or for each block of it.  The start is
greedy, the sign of what is left and its mean (Guo et al., "Network Sketching", 2017); then signs and scales
are fitted in turn: to the weight alone, and where second moments of the inputs are known to the error of the
product's output.  Scales are then least squares; signs are set weight after weight, each making good what
the ones before it lost (GPTQ, with the sums of ``+-a`` as its grid), and improved one by one while that helps
(coordinate descent).  No step is kept that raises the error.  Numbers in, numbers out: nothing here knows of
graphs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.reconstruct.blocks import Coded, View
from onnxslim.reconstruct.gptq import inverse_factor

__all__ = ["MAX_BASES", "Binary", "as_codes", "binarize", "binarize_integers", "damped", "join", "signs"]

Array = npt.NDArray[Any]
Bits = npt.NDArray[np.uint8]

MAX_BASES = 4
_DAMPINGS = (0.001, 0.01, 0.1)  # shares of the mean of the diagonal
_ROUNDS = 8  # of signs and scales in turn; fewer where they hardly gain
_HARDLY = 0.998  # times the error
_LAZY = 64  # weights of a column after which what they changed is handed on
_SWEEPS = 2  # of coordinate descent, between two fits of the scales
_HALF_MAX = float(np.finfo(np.float16).max) / 2  # scales are stored doubled
_HALF_MIN = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class Binary:
    """A weight as a sum of signs times scales, of floats or of int8.

    Attributes:
        bits: uint8, 1 where the sign is +1 and 0 where it is -1, ``[bases, outer, blocks, block, inner]``.
        scale: float16 or float32, ``[bases, outer, blocks, 1, inner]``; uint8 where the weight is int8.
        shape: of the weight.
    """

    bits: Bits
    scale: Array
    shape: tuple[int, ...]

    @property
    def bases(self) -> int:
        """How many signs there are for each weight."""
        return len(self.bits)

    @property
    def is_integer(self) -> bool:
        """Whether the weight is int8."""
        return bool(self.scale.dtype == np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, eight signs to a byte."""
        return -(-self.bits.size // 8) + self.scale.nbytes

    def decode(self) -> Array:
        """The weight as it is computed from the parts, basis after basis, in float32 or int8."""
        parts = (self.bits.astype(np.float32) - np.float32(0.5)) * (2 * self.scale.astype(np.float32))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        weight: Array = total.reshape(self.shape)
        return weight.astype(np.int8) if self.is_integer else weight


def signs(values: Array) -> Bits:
    """1 where a value is positive or a zero of either sign, else 0.

    Example:
        >>> signs(np.array([-2.0, -0.0, 0.0, 3.0])).tolist()
        [0, 1, 1, 1]
    """
    return (values >= 0).astype(np.uint8)


def binarize(weight: Array, view: View, bases: int = 1, moments: Array | None = None) -> Binary:
    """Signs and scales that leave little error.

    Args:
        weight: finite floats, of as many elements as the view.
        view: the weight in blocks that have scales of their own.
        bases: signs for each weight, 1 to 4.
        moments: ``X^T X`` over the inputs, damped so that it is positive definite, ``[length, length]``: the
            error is then that of the product's output.

    Example:
        >>> found = binarize(np.array([[1, -3, 3, -1]], dtype="f"), View(1, 4, 1), 2)
        >>> found.decode().tolist(), found.scale.ravel().tolist()
        ([[1.0, -3.0, 3.0, -1.0]], [2.0, 1.0])
    """
    columns = view.columns(weight.astype(np.float64))
    grid = _fitted(columns, view, bases)
    if moments is not None:
        grid = _weighed(columns, grid, moments)
    return _stored(grid, view, weight.shape)


def binarize_integers(weight: npt.NDArray[np.int8], view: View, bases: int = 1) -> Binary:
    """The same of an int8 weight, with whole-numbered scales, so that what is decoded is int8 again.

    Example:
        >>> binarize_integers(np.array([[10, -30, 30, -10]], np.int8), View(1, 4, 1), 2).decode().tolist()
        [[10, -30, 30, -10]]
    """
    grid = _fitted(view.columns(weight.astype(np.float64)), view, bases)
    scale = np.rint(grid.scale)
    over = np.maximum(scale.sum(axis=0) - np.iinfo(np.int8).max, 0)
    scale[0] = np.maximum(scale[0] - over, 0)
    whole = dataclasses.replace(grid, scale=scale)
    whole = whole.nearest(view.columns(weight.astype(np.float64)))
    return Binary(view.cubes(whole.bits), view.cubes(whole.scale.astype(np.uint8)), weight.shape)


def as_codes(form: Binary) -> Coded:
    """A single basis as 2-bit codes 1 and 3 around 2, for what has no type of one bit.

    Example:
        >>> form = binarize(np.array([[2, -2]], dtype="f"), View(1, 2, 1))
        >>> as_codes(form).codes.ravel(), bool((as_codes(form).decode() == form.decode()).all())
        (array([3, 1], dtype=uint8), True)
    """
    return Coded(2 * form.bits[0] + 1, form.scale[0], np.full((1, 1, 1, 1), 2, np.uint8), 2, form.shape)


def join(parts: Sequence[Binary], shape: tuple[int, ...]) -> Binary:
    """The form of a weight from those of its parts, one after the other in its first axis.

    Example:
        >>> half = binarize(np.array([[1, -1]], dtype="f"), View(1, 2, 1))
        >>> join([half, half], (2, 2)).decode().tolist()
        [[1.0, -1.0], [1.0, -1.0]]
    """
    bits, scale = (
        np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("bits", "scale")
    )
    return Binary(bits, scale, shape)


def damped(moments: Array) -> list[Array]:
    """Second moments, with less and with more of the identity added: the fewer inputs were seen, the more
    helps.

    Example:
        >>> [round(float(each[0, 0]), 1) for each in damped(np.eye(2) * 100)]
        [100.1, 101.0, 110.0]
    """
    mean = float(np.diag(moments).mean())
    return [moments + np.eye(len(moments)) * (share * mean) for share in _DAMPINGS]


@dataclass(frozen=True)
class _Grid:
    """Signs ``[bases, length, n]`` and scales ``[bases, blocks, n]`` of ``n`` columns."""

    bits: Bits
    scale: Array

    @property
    def block(self) -> int:
        return int(self.bits.shape[1] // self.scale.shape[1])

    def decode(self) -> Array:
        total: Array = ((2.0 * self.bits - 1) * np.repeat(self.scale, self.block, axis=1)).sum(axis=0)
        return total

    def levels(self, block: int) -> tuple[Bits, Array]:
        """All combinations of signs ``[2 ** bases, bases]``, and what they sum up to, ``[2 ** bases, n]``."""
        choices = np.array(list(itertools.product((0, 1), repeat=len(self.bits))), np.uint8)
        return choices, (2.0 * choices - 1) @ self.scale[:, block]

    def nearest(self, columns: Array) -> _Grid:
        """With the signs whose sums are nearest to the values."""
        bits = np.empty_like(self.bits)
        for block in range(self.scale.shape[1]):
            rows = slice(block * self.block, (block + 1) * self.block)
            choices, levels = self.levels(block)
            best, least = np.zeros(columns[rows].shape, np.int8), np.full(columns[rows].shape, np.inf)
            for number in reversed(range(len(levels))):  # of equal ones that with more positive signs
                away = np.abs(columns[rows] - levels[number])
                closer = away < least
                best[closer], least[closer] = number, away[closer]
            bits[:, rows] = np.moveaxis(choices[best], -1, 0)
        return _Grid(bits, self.scale)


def _fitted(columns: Array, view: View, bases: int) -> _Grid:
    """Of the weight alone: a greedy start, then the nearest sums and least squares in turn."""
    blocks = view.shape[1]
    cut = columns.reshape(blocks, -1, columns.shape[1])
    rest, bits, scale = cut, [], []
    for _ in range(bases):
        bits.append(signs(rest))
        scale.append(np.abs(rest).mean(axis=1))
        rest = rest - (2.0 * bits[-1] - 1) * scale[-1][:, None]
    grid = _Grid(np.stack(bits).reshape(bases, *columns.shape), np.stack(scale))
    if bases == 1:
        return grid  # already the optimum
    error = _squared(columns - grid.decode(), blocks)
    for _ in range(_ROUNDS):
        trial = _rescaled(columns, grid.nearest(columns))
        found = _squared(columns - trial.decode(), blocks)
        before, kept = error.sum(), (found < error)[None]
        error = np.minimum(found, error)
        wide = np.repeat(kept, grid.block, axis=1)
        grid = _Grid(np.where(wide, trial.bits, grid.bits), np.where(kept, trial.scale, grid.scale))
        if error.sum() >= _HARDLY * before:
            break
    return grid


def _squared(lost: Array, blocks: int) -> Array:
    """Squared errors of each block and column."""
    total: Array = np.square(lost.reshape(blocks, -1, lost.shape[1])).sum(axis=1)
    return total


def _rescaled(columns: Array, grid: _Grid) -> _Grid:
    """With the scales that leave the least squared error of the weight."""
    bases, blocks, n = grid.scale.shape
    plus = (2.0 * grid.bits - 1).reshape(bases, blocks, grid.block, n)
    cut = columns.reshape(blocks, grid.block, n)
    gram = np.einsum("ibkn,jbkn->bnij", plus, plus)
    right = np.einsum("ibkn,bkn->bni", plus, cut)
    return _positive(grid.bits, np.moveaxis(_solved(gram, right), -1, 0))


def _solved(gram: Array, right: Array) -> Array:
    """Least squares; bases that are equal, or opposite, share what they explain."""
    size = gram.shape[-1]
    tiny = 1e-9 * np.einsum("...ii->...", gram)[..., None, None] / size + np.finfo(np.float64).tiny
    solved: Array = np.linalg.solve(gram + tiny * np.eye(size), right[..., None])[..., 0]
    return solved


def _positive(bits: Bits, scale: Array) -> _Grid:
    """Negative scales change the signs instead; larger scales come first; signs without a scale are +1."""
    wide = np.repeat(scale, bits.shape[1] // scale.shape[1], axis=1)
    bits = np.where(wide < 0, 1 - bits, bits)
    bits = np.where(wide == 0, 1, bits).astype(np.uint8)
    return _Grid(bits, np.abs(scale))


def _weighed(columns: Array, grid: _Grid, moments: Array) -> _Grid:
    """Fitted to the output: signs and scales in turn, each column as long as its error falls."""
    diagonal = np.diag(moments)
    factor = inverse_factor(moments, 1e-9)
    best, least = grid, _output_errors(columns, grid, moments)
    trial = _output_scales(columns, grid, moments)
    trial = _handed_on(columns, trial, factor)
    for _ in range(_ROUNDS):
        trial = _output_scales(columns, trial, moments)
        trial = _descended(columns, trial, moments, diagonal)
        error = _output_errors(columns, trial, moments)
        before = least.sum()
        best, least = _chosen(error < least, trial, best), np.minimum(error, least)
        trial = best
        if least.sum() >= _HARDLY * before:
            break
    return best


def _chosen(better: Array, one: _Grid, other: _Grid) -> _Grid:
    """Column by column."""
    return _Grid(np.where(better, one.bits, other.bits), np.where(better, one.scale, other.scale))


def _output_errors(columns: Array, grid: _Grid, moments: Array) -> Array:
    lost = columns - grid.decode()
    errors: Array = np.einsum("kn,kn->n", lost, moments @ lost)
    return errors


def _output_scales(columns: Array, grid: _Grid, moments: Array) -> _Grid:
    """With the scales of each column, of all bases and blocks, that leave its output the least error."""
    bases, blocks, n = grid.scale.shape
    block = grid.block
    plus = (2.0 * grid.bits - 1).reshape(bases, blocks, block, n)
    size = bases * blocks
    wanted = (moments @ columns).reshape(blocks, block, n)
    right = np.einsum("ibkn,bkn->nib", plus, wanted).reshape(n, size)
    gram = np.empty((n, bases, blocks, bases, blocks))
    for at in range(blocks):
        part = moments[:, at * block : (at + 1) * block]
        for basis in range(bases):
            met = (part @ plus[basis, at]).reshape(blocks, block, n)
            gram[:, :, :, basis, at] = np.einsum("ibkn,bkn->nib", plus, met)
    solved = _solved(gram.reshape(n, size, size), right)
    return _positive(grid.bits, np.moveaxis(solved.reshape(n, bases, blocks), 0, -1))


def _handed_on(columns: Array, grid: _Grid, factor: Array) -> _Grid:
    """Signs by GPTQ: each weight's error is handed on to those that come after it."""
    work, bits, each = columns.copy(), np.empty_like(grid.bits), np.arange(columns.shape[1])
    for row in range(len(work)):
        if row % grid.block == 0:
            choices, levels = grid.levels(row // grid.block)
        at = np.abs(levels - work[row]).argmin(axis=0)
        bits[:, row] = choices[at].T
        value = levels[at, each]
        work[row + 1 :] -= np.outer(factor[row, row + 1 :], (work[row] - value) / factor[row, row])
    return _Grid(bits, grid.scale)


def _descended(columns: Array, grid: _Grid, moments: Array, diagonal: Array) -> _Grid:
    """Signs by coordinate descent: each weight takes the sum that is best while the others stay."""
    bits, lost, each = grid.bits.copy(), columns - grid.decode(), np.arange(columns.shape[1])
    for _ in range(_SWEEPS):
        before = lost.copy()
        for row in range(len(lost)):
            if row % grid.block == 0:
                choices, levels = grid.levels(row // grid.block)
            if row % _LAZY == 0:  # what rows before these have changed, for all of them at once
                first, pulls = row, moments[row : row + _LAZY] @ lost
            pull = pulls[row - first]
            pull = pull + moments[row, first:row] @ (lost[first:row] - before[first:row])
            now = columns[row] - lost[row]
            at = np.abs(levels - (now + pull / diagonal[row])).argmin(axis=0)
            value = levels[at, each]
            moved = np.abs(value - now) > 1e-12 * np.abs(levels[-1])
            bits[:, row, moved] = choices[at[moved]].T
            lost[row, moved] = columns[row, moved] - value[moved]
        if np.array_equal(lost, before):
            break
    return _Grid(bits, grid.scale)


def _stored(grid: _Grid, view: View, shape: tuple[int, ...]) -> Binary:
    """Scales in half precision where that has the range, the larger first."""
    order = np.argsort(-grid.scale, axis=0, kind="stable")
    scale = np.take_along_axis(grid.scale, order, axis=0)
    bits = np.take_along_axis(grid.bits, np.repeat(order, grid.block, axis=1), axis=0)
    normal = (scale == 0) | ((scale >= _HALF_MIN) & (scale <= _HALF_MAX))
    dtype = np.float16 if normal.all() else np.float32
    return Binary(view.cubes(bits), view.cubes(scale.astype(np.float32).astype(dtype)), shape)
