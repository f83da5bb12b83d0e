"""What a convolution multiplies its filters with: the patches of its input, as rows of a matrix.

A convolution is the product of these rows with its filters (Chellapilla et al., "High Performance
Convolutional Neural Networks for Document Processing", 2006), so what holds for matrices, second moments
among it, holds for convolutions of any kernel.  Runs in the worker process: imports numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Window"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """Where the filters of a convolution lie on its input; the attributes of ``Conv``.

    Args:
        same: ``SAME_UPPER`` or ``SAME_LOWER``: pads follow from the extent of the input (``auto_pad``).
        groups: of channels, each with filters of its own.
        spread: zeros are put between the elements of the input, which come to lie so far apart: what a
            transposed convolution by these strides slides its flipped filters over.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1
    same: str = ""
    spread: tuple[int, ...] = ()

    def over(self, values: Array) -> Array:
        """The patches as ``[samples, *positions, channels, *kernel]``: a view of the padded values.

        Args:
            values: ``[samples, channels, *spatial]``.

        Raises:
            ValueError: the numbers of axes differ.

        Example:
            >>> Window((2,), pads=(1, 0)).over(np.array([[[1.0, 2.0, 3.0]]]))[0, :, 0]
            array([[0., 1.],
                   [1., 2.],
                   [2., 3.]])
        """
        rank = len(self.kernel)
        strides, dilations = self.strides or (1,) * rank, self.dilations or (1,) * rank
        values = self._spread(values)
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

    def _spread(self, values: Array) -> Array:
        if all(step == 1 for step in self.spread):
            return values
        sizes = ((n - 1) * step + 1 for n, step in zip(values.shape[2:], self.spread, strict=True))
        found = np.zeros((*values.shape[:2], *sizes), values.dtype)
        steps = tuple(slice(None, None, step) for step in self.spread)
        found[(slice(None), slice(None), *steps)] = values
        return found

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
