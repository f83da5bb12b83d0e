"""Scales of 8-bit floats: ``x ~ scale * f``, where ``f`` has 4 bits of exponent and 3 of mantissa (E4M3).

Micikevicius et al., "FP8 Formats for Deep Learning", 2022; ``FLOAT8E4M3FN`` of the ONNX specification.  The
largest value of a tensor comes to lie at the largest number of the type, 448; there is no zero point, and one
scale for a whole tensor suffices, since each number has an exponent of its own.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxslim.reconstruct.affine import powers_of_two

__all__ = ["FLOAT8", "float8_scale", "round_float8"]

Array = npt.NDArray[Any]

FLOAT8 = "float8e4m3fn"  # its name in ONNX
_TYPE = np.dtype(ml_dtypes.float8_e4m3fn)
_LARGEST = 448.0


def float8_scale(low: float, high: float, *, power_of_two: bool = False) -> tuple[np.float32, Any]:
    """Scale of 8-bit floats that reach from ``low`` to ``high``, and the zero point that names their type.

    Args:
        power_of_two: the scale is the next larger power of two.

    Example:
        >>> scale, zero = float8_scale(-1.0, 448.0)
        >>> float(scale), float(zero), zero.dtype
        (1.0, 0.0, dtype(float8_e4m3fn))
    """
    scale = np.float32(max(-low, high, 0.0) / _LARGEST)
    if not scale > np.finfo(np.float32).tiny or not np.isfinite(scale):
        scale = np.float32(1)
    elif power_of_two:
        scale = np.float32(powers_of_two(scale))
    return scale, _TYPE.type(0)


def round_float8(weight: Array, *, power_of_two: bool = False) -> tuple[Array, np.float32]:
    """A weight as 8-bit floats, to nearest with ties to even, and their one scale.

    Args:
        weight: finite floats of any shape.

    Example:
        >>> codes, scale = round_float8(np.array([448.0, -1.03]))
        >>> codes.astype("f").tolist(), float(scale)
        ([448.0, -1.0], 1.0)
    """
    peak = float(np.abs(weight).max(initial=0))
    scale, _ = float8_scale(-peak, peak, power_of_two=power_of_two)
    steps = np.clip(weight / scale, -_LARGEST, _LARGEST)  # beyond the largest number the type has only NaN
    return steps.astype(_TYPE), scale
