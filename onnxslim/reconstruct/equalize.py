"""Factors per channel that let activations and weights share 8 bits fairly.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019; Xiao et al.,
"SmoothQuant", 2022.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["column_reach", "powers_of_two", "row_reach"]

Array = npt.NDArray[Any]

_STEPS = 8  # no channel is scaled by more than 2 ** 8


def powers_of_two(reach: Array, column: Array, balance: float) -> Array:
    """Factors that make ``reach ** balance * column ** (balance - 1)`` as alike as powers of two can.

    Args:
        reach: how far each channel of the activations goes, ``[channels]``.
        column: the largest weight that each channel is multiplied with, ``[channels]``.
        balance: 1 to level the activations, 0 to level the weights.

    Returns:
        What to multiply the activations by, ``[channels]``; 1 for channels that are always zero, or unread.
        The median channel is left as it is.

    Example:
        >>> powers_of_two(np.array([1.0, 4.0, 16.0]), np.ones(3), 0.5)
        array([2. , 1. , 0.5])
    """
    alive = (reach > 0) & (column > 0) & np.isfinite(reach) & np.isfinite(column)
    if not alive.any():
        return np.ones(len(reach))
    wanted = balance * np.log2(reach[alive]) - (1 - balance) * np.log2(column[alive])
    middle = float(np.sort(wanted)[(len(wanted) - 1) // 2])
    factors = np.ones(len(reach))
    factors[alive] = np.exp2(-np.clip(np.rint(wanted - middle), -_STEPS, _STEPS))
    return factors


def row_reach(weight: Array, factors: tuple[int, ...]) -> Array:
    """The largest magnitude in each channel of a weight.

    Args:
        weight: of any shape.
        factors: that shape with 1 along all axes but those of the channels.

    Example:
        >>> row_reach(np.array([[1.0, -3.0], [2.0, 0.0]]), (2, 1))
        array([3., 2.])
    """
    return _largest(np.abs(weight), factors).astype(np.float64)


def column_reach(weight: Array, factors: tuple[int, ...]) -> Array:
    """The largest magnitude in each input channel of a weight, relative to the output channel's largest.

    Args:
        weight: ``[groups, outputs, inputs, taps]``, or ``[inputs, outputs]``.
        factors: that shape with 1 along all axes but those of the input channels.

    Example:
        >>> column_reach(np.array([[1.0, 8.0], [2.0, 2.0]]), (2, 1))
        array([1., 1.])
    """
    sizes = np.abs(weight).astype(np.float64)
    own = sizes.max(axis=(2, 3) if weight.ndim == 4 else 0, keepdims=True, initial=0)
    return _largest(np.divide(sizes, own, out=np.zeros_like(sizes), where=own > 0), factors)


def _largest(sizes: Array, factors: tuple[int, ...]) -> Array:
    others = tuple(i for i, extent in enumerate(factors) if extent == 1)
    return np.asarray(sizes.max(axis=others, initial=0)).reshape(math.prod(factors))
