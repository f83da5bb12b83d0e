"""Bias correction: give back, on average, what rounding a weight takes from each output channel.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2,
with the inputs' means from calibration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["rounding_shift"]

Array = npt.NDArray[Any]


def rounding_shift(weight: Array, restored: Array, axis: int, mean: Array) -> Array | None:
    """``(W - W') E[x]`` per output channel: what to add to the bias.

    Args:
        weight: as it was, with the output channels along ``axis`` and the input channels first of the others.
        restored: as it comes back from its integers.
        mean: of the inputs, ``[input channels]``; the same under every tap of a convolution, which neglects
            padding.

    Returns:
        float64 ``[output channels]``; None where the means do not belong to the weight.

    Example:
        >>> rounding_shift(np.array([[1.0, 2.0]]), np.array([[0.9, 2.0]]), 0, np.array([10.0, 1.0])).round(6)
        array([1.])
    """
    lost = np.moveaxis(weight - restored, axis, 0)
    if mean.shape != lost.shape[1:2]:
        return None
    taps = lost.reshape(lost.shape[0], lost.shape[1], -1).sum(axis=2, dtype=np.float64)
    shift: Array = taps @ mean
    return shift
