"""Operators as their definitions read, in numpy, where onnx's own evaluator is wrong or lacks float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["counting", "gelu", "grouped", "pooled", "spread", "standardised"]

Array = npt.NDArray[Any]


def spread(
    strides: tuple[int, int],
    begins: tuple[int, int],
    size: tuple[int, int],
    dilations: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Callable[..., Array]:
    """ConvTranspose as its definition reads: each input, times the kernel, added to where it belongs."""

    def oracle(x: Array, weight: Array) -> Array:
        made, per_group = weight.shape[1], len(weight) // groups
        whole = np.zeros((len(x), made * groups, 99, 99))
        for channel, row, column in np.ndindex(x.shape[1:]):
            first = channel // per_group * made
            for k, m in np.ndindex(weight.shape[2:]):
                at = 20 + row * strides[0] + k * dilations[0], 20 + column * strides[1] + m * dilations[1]
                part = x[:, channel, row, column, None] * weight[channel, :, k, m]
                whole[:, first : first + made, at[0], at[1]] += part
        top, left = 20 + begins[0], 20 + begins[1]
        return whole[:, :, top : top + size[0], left : left + size[1]]

    return oracle


def grouped(epsilon: float, groups: int) -> Callable[..., Array]:
    def oracle(x: Array, scale: Array, bias: Array) -> Array:
        rows = x.reshape(len(x), groups, -1)
        rows = rows - rows.mean(2, keepdims=True)
        rows = (rows / np.sqrt((rows**2).mean(2, keepdims=True) + epsilon)).reshape(x.shape)
        behind = (1, x.shape[1], *(1,) * (x.ndim - 2))
        each = [np.repeat(a, x.shape[1] // len(a)).reshape(behind) for a in (scale, bias)]
        return rows * each[0] + each[1]

    return oracle


def gelu(x: Array, bias: Array | float = 0.0) -> Array:
    total = x + bias
    return np.asarray(total * (1 + np.vectorize(math.erf)(total / math.sqrt(2))) / 2)


def standardised(x: Array) -> Array:
    centred = x - x.mean((0, 2, 3), keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean((0, 2, 3), keepdims=True)))


def pooled(
    kernel: tuple[int, int], strides: tuple[int, int], begins: tuple[int, int]
) -> Callable[..., Array]:
    """MaxPool over what a window holds of the input."""

    def oracle(x: Array) -> Array:
        counts = [-(-size // stride) for size, stride in zip(x.shape[2:], strides, strict=True)]
        found = np.zeros((*x.shape[:2], *counts))
        for row, column in np.ndindex(*counts):
            top, left = row * strides[0] - begins[0], column * strides[1] - begins[1]
            window = x[:, :, max(top, 0) : top + kernel[0], max(left, 0) : left + kernel[1]]
            found[:, :, row, column] = window.max((2, 3))
        return found

    return oracle


def counting(x: Array) -> Array:
    """Means over 3 x 3 with stride 2 and padding in front above and behind on the right, which count.

    The last windows reach further than the padding; what lies there does not count.
    """
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 1)])
    found = np.zeros((*x.shape[:2], 3, 3))
    for row, column in np.ndindex(3, 3):
        found[:, :, row, column] = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].mean(
            (2, 3)
        )
    return found
