"""Scales and zero points: the affine map between floats and integers, ``x ~ scale * (q - zero_point)``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["affine_uint8", "bias_int32", "least_weight_scale", "symmetric_int8"]

Array = npt.NDArray[Any]


def affine_uint8(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 over ``[low, high]`` widened to hold 0, which is exactly represented.

    Example:
        >>> scale, zero = affine_uint8(-1.0, 1.55)
        >>> round(float(scale), 6), int(zero)
        (0.01, 100)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    if not scale > np.finfo(np.float32).tiny or not np.isfinite(scale):
        return np.float32(1), np.uint8(0)
    return scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, 255))


def symmetric_int8(low: float, high: float) -> tuple[np.float32, np.int8]:
    """Scale of int8 over ``[low, high]``, and its zero point, which is 0.

    Example:
        >>> scale, zero = symmetric_int8(-1.27, 0.5)
        >>> round(float(scale), 6), int(zero)
        (0.01, 0)
    """
    scale = np.float32(max(abs(low), abs(high)) / 127)
    if not scale > np.finfo(np.float32).tiny or not np.isfinite(scale):
        return np.float32(1), np.int8(0)
    return scale, np.int8(0)


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
