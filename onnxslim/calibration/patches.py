"""What a convolution multiplies its filters with: the patches of its input, as rows of a matrix.

A convolution is the product of these rows with its filters (Chellapilla et al., "High Performance
Convolutional Neural Networks for Document Processing", 2006), so what holds for matrices, second moments
among it, holds for convolutions of any kernel.  Runs in the worker process: imports numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PatchProducts", "Window", "patches"]

Array = npt.NDArray[Any]

_BLOCK_BYTES = 8 << 20  # of float64 rows at a time


def patches(
    values: Array,
    kernel: Sequence[int],
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (),
) -> Array:
    """The rows that a convolution multiplies its filters with.

    Args:
        values: ``[samples, channels, *spatial]``.
        kernel: extent of the filters along each spatial axis.
        strides: 1 along each axis by default.
        pads: zeros at the beginning of each spatial axis, then at the end of each; default none.
        dilations: distance of neighbouring taps; 1 along each axis by default.

    Returns:
        ``[samples * positions, channels * taps]``, columns in the order of a weight's elements,
        ``[channels, *kernel]``.  Those of one group of channels lie side by side.

    Raises:
        ValueError: the numbers of axes differ.

    Example:
        >>> patches(np.array([[[1.0, 2.0, 3.0]]]), kernel=(2,), pads=(1, 0))
        array([[0., 1.],
               [1., 2.],
               [2., 3.]])
    """
    view = Window(tuple(kernel), tuple(strides), tuple(pads), tuple(dilations)).over(values)
    rank = len(kernel)
    channels = values.shape[1]
    return view.reshape(math.prod(view.shape[: 1 + rank]), channels * math.prod(kernel))


@dataclass(frozen=True, slots=True)
class Window:
    """Where the filters of a convolution lie on its input; the attributes of ``Conv``.

    Args:
        same: ``SAME_UPPER`` or ``SAME_LOWER``: pads follow from the extent of the input (``auto_pad``).
        groups: of channels, each with filters of its own.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1
    same: str = ""

    def over(self, values: Array) -> Array:
        """The patches as ``[samples, *positions, channels, *kernel]``: a view of the padded values.

        Raises:
            ValueError: the numbers of axes differ.
        """
        rank = len(self.kernel)
        strides, dilations = self.strides or (1,) * rank, self.dilations or (1,) * rank
        spatial = values.shape[2:]
        pads = self._pads(spatial, strides, dilations)
        if not len(spatial) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
            raise ValueError(
                f"a kernel of {rank} axes does not fit {spatial}, {strides}, {dilations}, {pads}"
            )
        if any(pads):
            ends = zip(pads[:rank], pads[rank:], strict=True)
            values = np.pad(values, [(0, 0), (0, 0), *ends])
        extents = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, dilations, strict=True))
        if any(n < e for n, e in zip(values.shape[2:], extents, strict=True)):
            return np.zeros((values.shape[0], *(0,) * rank, values.shape[1], *self.kernel), values.dtype)
        axes = tuple(range(2, 2 + rank))
        view = np.lib.stride_tricks.sliding_window_view(values, extents, axes)  # [n, c, *positions, *extents]
        steps = tuple(slice(None, None, step) for step in (*strides, *dilations))
        return np.moveaxis(view[(slice(None), slice(None), *steps)], 1, 1 + rank)

    def blocks(self, values: Array) -> Iterator[Array]:
        """The rows of each group in float64, ``[groups, rows, columns]``, a few MB at a time."""
        columns = values.shape[1] // self.groups * math.prod(self.kernel)
        for sample in self.over(values):
            slab = 8 * math.prod(sample.shape[1:])  # of the positions along the first axis
            step = max(1, _BLOCK_BYTES // max(slab, 1))
            for start in range(0, len(sample), step):
                block = sample[start : start + step].astype(np.float64)
                yield block.reshape(-1, self.groups, columns).swapaxes(0, 1)

    def _pads(
        self, spatial: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
    ) -> tuple[int, ...]:
        if not self.same:
            return self.pads or (0,) * (2 * len(self.kernel))
        totals = [
            max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, s, d in zip(spatial, self.kernel, strides, dilations, strict=True)
        ]
        less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
        return (*less, *more) if self.same == "SAME_UPPER" else (*more, *less)


@dataclass(frozen=True, slots=True)
class PatchProducts:
    """``X^T X`` of the patches of each group, ``[groups, columns, columns]`` in float64; not centred.

    ``count`` is the number of rows.  A sum of floats: its bits depend on the grouping of the samples.
    """

    count: int
    matrix: Array

    @classmethod
    def of(cls, values: Array, window: Window) -> PatchProducts:
        """Of finite values ``[samples, channels, *spatial]``.

        Example:
            >>> PatchProducts.of(np.array([[[1.0, 2.0, 3.0]]]), Window((2,))).matrix
            array([[[ 5.,  8.],
                    [ 8., 13.]]])
        """
        columns = values.shape[1] // window.groups * math.prod(window.kernel)
        count, matrix = 0, np.zeros((window.groups, columns, columns))
        for rows in window.blocks(values):
            matrix += rows.swapaxes(1, 2) @ rows
            count += rows.shape[1]
        return cls(count, matrix)

    def merge(self, other: PatchProducts) -> PatchProducts:
        """The products of both sets of rows.

        Raises:
            ValueError: the sets differ in their columns.
        """
        if self.matrix.shape != other.matrix.shape:
            raise ValueError("the number of channels differs between samples")
        return PatchProducts(self.count + other.count, self.matrix + other.matrix)
