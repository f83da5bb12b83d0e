"""Scales and zero points: the affine map between floats and integers, ``x ~ scale * (q - zero_point)``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["affine", "bias_int32", "least_weight_scale", "powers_of_two"]

Array = npt.NDArray[Any]


def affine(
    low: float, high: float, dtype: str = "uint8", *, symmetric: bool = False, power_of_two: bool = False
) -> tuple[np.float32, np.integer[Any]]:
    """Scale and zero point of integers over ``[low, high]`` widened to hold 0, which is exactly represented.

    Args:
        dtype: of the integers, 8 or 16 bits.
        symmetric: the zero point is 0, and the least integer is not used.
        power_of_two: the scale is the next larger power of two, for hardware that shifts numbers.

    Example:
        >>> scale, zero = affine(-1.0, 1.55)
        >>> round(float(scale), 6), int(zero)
        (0.01, 100)
        >>> scale, zero = affine(-1.27, 0.5, "int8", symmetric=True)
        >>> round(float(scale), 6), int(zero)
        (0.01, 0)
    """
    kind, limits = np.dtype(dtype).type, np.iinfo(dtype)
    low, high = min(low, 0.0), max(high, 0.0)
    span = max(-low, high) / limits.max if symmetric else (high - low) / (int(limits.max) - int(limits.min))
    scale = np.float32(span)
    if not scale > np.finfo(np.float32).tiny or not np.isfinite(scale):
        return np.float32(1), kind(0 if symmetric else limits.min)
    if power_of_two:
        scale = np.float32(powers_of_two(scale))
    if symmetric:
        return scale, kind(0)
    return scale, kind(np.clip(np.rint(-low / float(scale)) + limits.min, limits.min, limits.max))


def powers_of_two(scale: Array | np.float32) -> Array:
    """The next larger powers of two.

    Example:
        >>> powers_of_two(np.float32([0.3, 0.5])).tolist()
        [0.5, 0.5]
    """
    return np.asarray(np.exp2(np.ceil(np.log2(scale))), np.float32)


def bias_int32(
    bias: Array, activation_scale: float, weight_scale: Array
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """A bias per channel in the scale of the accumulator, ``activation_scale * weight_scale``.

    Args:
        bias: floats ``[channels]``.
        weight_scale: ``[channels]``, at least :func:`least_weight_scale`, else the bias saturates.

    Example:
        >>> bias_int32(np.array([1.0]), 0.5, np.array([0.25]))[0].tolist()
        [8]
    """
    scale = (np.float32(activation_scale) * weight_scale).astype(np.float32)
    limit = np.iinfo(np.int32)
    return np.clip(np.rint(bias / scale.astype(np.float64)), limit.min, limit.max).astype(np.int32), scale


def least_weight_scale(bias: Array, activation_scale: float) -> Array:
    """The weight scales from which on the bias fits int32 with room for the products, ``[channels]``.

    A channel of tiny weights beside a large bias would otherwise have a scale too small for the bias.
    """
    return np.abs(bias) / (float(activation_scale) * 2.0**30)
