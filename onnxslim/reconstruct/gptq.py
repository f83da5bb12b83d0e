"""GPTQ: round the weights of a product one after another, each making good what the ones before it lost.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
algorithm 1.  The error that counts is that of the layer's output on the inputs it really gets, which needs
no more of them than ``X^T X``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.reconstruct.blocks import Coded, View, round_blocks, round_rows

__all__ = ["DAMPINGS", "gptq", "hand_on", "inverse_factor", "output_error", "round_by_outputs"]

Array = npt.NDArray[Any]

_LAZY = 128  # rows whose errors are handed on to all later ones at once
DAMPINGS = (0.01, 0.1, 1.0)
_ATTEMPTS = 6  # of damping ten times as strong, until the matrix can be inverted


def gptq(
    weight: Array,
    view: View,
    moments: Array,
    bits: int,
    *,
    symmetric: bool = True,
    damping: float = 0.01,
    by_activation: bool = False,
    whole: bool = False,
) -> Coded:
    """Round ``weight`` so that the product's output changes little.

    Args:
        weight: finite floats, of as many elements as the view.
        moments: ``X^T X`` over the inputs, or a multiple, ``[length, length]``.
        bits: 2 to 8.
        symmetric: no zero points.
        damping: added to the diagonal, as a share of its mean.
        by_activation: round the rows with the largest inputs first; then the scales are those of
            ``round_blocks``, since a block is not rounded in one go.
        whole: scales are whole numbers, so that what is decoded is int8.

    Returns:
        Codes; the scales of a block were chosen when its turn came.

    Raises:
        numpy.linalg.LinAlgError: ``moments`` is not positive definite, however much it is damped.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(256, 1)) + np.arange(1, 9) / 20
        >>> w, view = np.random.default_rng(1).normal(size=(8, 4)), View(1, 8, 4)
        >>> coded = gptq(w, view, x.T @ x, 3).decode()
        >>> nearest = round_blocks(w, view, 3).decode()
        >>> output_error(w, coded, view, x.T @ x) < output_error(w, nearest, view, x.T @ x)
        True
    """
    _, blocks, block, _ = view.shape
    matrix = view.columns(weight.astype(np.float64))
    diagonal = np.diag(moments)
    order = np.argsort(-diagonal, kind="stable") if by_activation else np.arange(view.length)
    factor = inverse_factor(moments[np.ix_(order, order)], damping)
    scales = np.ones((blocks, matrix.shape[1]), np.float32)
    zeros = np.full((blocks, matrix.shape[1]), 1 << (bits - 1), np.uint8)
    known = None
    if by_activation:
        known = round_blocks(weight, view, bits, symmetric=symmetric, importance=diagonal, whole=whole)
        scales, zeros = _table(known.scale, view), _table(known.zero, view)
    work, codes = matrix[order], np.zeros(matrix.shape, np.uint8)

    def begin(start: int) -> None:
        if not by_activation and start % block == 0:
            importance = np.broadcast_to(diagonal[start : start + block], (matrix.shape[1], block))
            _, scale, zero = round_rows(work[start : start + block].T, bits, symmetric, importance, whole)
            scales[start // block], zeros[start // block] = scale, zero

    def rounded(row: int) -> Array:
        at = order[row]
        scale, zero = scales[at // block].astype(np.float64), zeros[at // block].astype(np.float64)
        low, high = np.float64(0), np.float64((1 << bits) - 1)
        if whole:  # what is decoded has to be int8
            low = np.maximum(low, np.ceil(-128 / scale) + zero)
            high = np.minimum(high, np.floor(127 / scale) + zero)
        codes[at] = np.clip(np.rint(work[row] / scale) + zero, low, high)
        return np.asarray((codes[at] - zero) * scale)

    hand_on(work, factor, block, begin, rounded)
    coded = Coded(
        view.cubes(codes),
        view.cubes(scales),
        np.full((1, 1, 1, 1), zeros.flat[0], np.uint8) if symmetric else view.cubes(zeros),
        bits,
        weight.shape,
    )
    if whole:
        return dataclasses.replace(coded, scale=coded.scale.astype(np.uint8))
    halves = coded.scale.astype(np.float16)
    if np.array_equal(halves.astype(np.float32), coded.scale):
        return dataclasses.replace(coded, scale=halves)
    return coded


def hand_on(
    work: Array,
    factor: Array,
    block: int,
    begin: Callable[[int], None],
    rounded: Callable[[int], Array],
) -> None:
    """Round the rows of ``work``, in place, one after another, handing on what each loses to those after it.

    Args:
        work: ``[length, columns]``, float64.
        factor: upper Cholesky factor of the inverse of the moments (:func:`inverse_factor`).
        block: rows that are rounded alike.
        begin: called with the first row of every block or part of one, before it is rounded.
        rounded: a row as it is stored.
    """
    for start, end in _batches(len(work), block, min(block, _LAZY)):
        begin(start)
        errors = np.zeros((end - start, work.shape[1]))
        for row in range(start, end):
            errors[row - start] = (work[row] - rounded(row)) / factor[row, row]
            work[row + 1 : end] -= np.outer(factor[row, row + 1 : end], errors[row - start])
        work[end:] -= factor[start:end, end:].T @ errors


def round_by_outputs(
    weight: Array,
    view: View,
    moments: Array,
    bits: int,
    *,
    symmetric: bool = True,
    held_out: Array | None = None,
    whole: bool = False,
) -> Coded:
    """The better of GPTQ, differently damped, and rounding to nearest, by the error on held-out inputs.

    The fewer inputs there were to fit on, the more damping helps.

    Args:
        moments: ``X^T X`` of the inputs to fit on.
        held_out: the same of inputs that nothing was fitted to; default ``moments``.

    The other arguments are those of :func:`gptq`.
    """
    judge = moments if held_out is None else held_out
    nearest = partial(round_blocks, weight, view, bits, symmetric=symmetric, whole=whole)
    best = nearest()
    least = output_error(weight, best.decode(), view, judge)
    for coded in (
        nearest(importance=np.diag(moments)),
        *_damped(weight, view, moments, bits, symmetric, whole),
    ):
        error = output_error(weight, coded.decode(), view, judge)
        if error < least:
            best, least = coded, error
    return best


def _damped(
    weight: Array, view: View, moments: Array, bits: int, symmetric: bool, whole: bool
) -> Iterator[Coded]:
    for damping in DAMPINGS:
        with contextlib.suppress(np.linalg.LinAlgError):
            yield gptq(weight, view, moments, bits, symmetric=symmetric, damping=damping, whole=whole)


def output_error(weight: Array, other: Array, view: View, moments: Array) -> float:
    """Squared error of a product's output with another weight: ``tr(D^T X^T X D)``, ``D`` the difference."""
    lost = view.columns(weight.astype(np.float64)) - view.columns(other.astype(np.float64))
    return float(np.sum(lost * (moments @ lost)))


def _table(array: Array, view: View) -> Array:
    """``[outer, blocks, 1, inner]`` (or one for all) as ``[blocks, outer * inner]``."""
    outer, blocks, _, inner = view.shape
    whole = np.broadcast_to(array, (outer, blocks, 1, inner))[:, :, 0]
    return np.moveaxis(whole, 1, 0).reshape(blocks, -1)


def _batches(length: int, block: int, step: int) -> list[tuple[int, int]]:
    """Runs of at most ``step`` rows that do not cross the border of a block."""
    return [
        (at, min(at + step, start + block))
        for start in range(0, length, block)
        for at in range(start, start + block, step)
    ]


def inverse_factor(moments: Array, damping: float) -> Array:
    """The upper Cholesky factor of the inverse of ``moments``, damped by a share of the mean of its diagonal.

    Raises:
        numpy.linalg.LinAlgError: not positive definite, however much it is damped.
    """
    damped = moments.astype(np.float64)
    mean = float(np.diag(damped).mean())
    if not mean > 0 or not np.isfinite(damped).all():
        raise np.linalg.LinAlgError("the inputs are all zero, or not finite")
    added = damping * mean
    for attempt in range(_ATTEMPTS):
        try:
            regular = damped + np.eye(len(damped)) * added * 10**attempt
            np.linalg.cholesky(regular)  # fails where inv would go on
            return np.linalg.cholesky(np.linalg.inv(regular)).T
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError("the moments are not positive definite")
