"""Where atoms lie along an axis, and which indices are left when some of them go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.channels.layout import Cell, Join, Layout, walk

__all__ = ["keep", "occurrences"]


def keep(layout: Layout, kept: Mapping[Cell, npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_] | None:
    """Which indices stay, if of some cells only these atoms do; None where all do.

    Of an open layout it is the part that repeats.
    """
    layout = walk(layout)
    if isinstance(layout, Cell):
        return kept.get(layout)
    masks = [keep(part, kept) for part in layout.parts]
    if all(mask is None for mask in masks):
        return None
    full = [
        np.ones(1 if part.size is None else part.size, np.bool_) if mask is None else mask
        for part, mask in zip(layout.parts, masks, strict=True)
    ]
    if isinstance(layout, Join):
        return np.concatenate(full)
    result = full[0]
    for mask in full[1:]:
        result = np.logical_and.outer(result, mask).reshape(-1)
    return result


def occurrences(layout: Layout) -> Iterator[tuple[Cell, int, int]]:
    """Every place of every free cell: the cell, where it starts, and how many indices an atom takes."""
    layout = walk(layout)
    if isinstance(layout, Cell):
        if layout.pin is None and layout.size is not None and layout.size > 1:
            yield layout, 0, 1
    elif isinstance(layout, Join):
        before = 0
        for part in layout.parts:
            for cell, start, inner in occurrences(part):
                yield cell, before + start, inner
            before += part.size or 0
    elif layout.size is not None:
        yield from _of_product(layout.parts, layout.size)


def _of_product(parts: Sequence[Layout], total: int) -> Iterator[tuple[Cell, int, int]]:
    outside, after = 1, total
    for part in parts:
        size = part.size or 1
        block, after = after, after // size
        for cell, start, inner in occurrences(part):
            for copy in range(outside):
                yield cell, copy * block + start * after, inner * after
        outside *= size
