"""What becomes of a model's tensors when some atoms go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels.coupling import Sum, Survey
from onnxslim.analysis.channels.discover import members_of, survey
from onnxslim.analysis.channels.layout import Cell, Layout
from onnxslim.analysis.channels.places import keep
from onnxslim.errors import OptionError

__all__ = ["Removal"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Removal:
    """Atoms to remove from a model, and everything that follows; bound to the model it was made of."""

    found: Survey
    kept: Mapping[Cell, Mask]

    @staticmethod
    def of(model: ir.Model, remove: Mapping[str, Sequence[int]], *, residual: bool = False) -> Removal:
        """Look groups up by their keys.

        Raises:
            OptionError: there is no such group or atom, or nothing of a group would stay.
        """
        found = survey(model, residual=residual)
        cells = {key: cell for cell, (key, _) in members_of(found).items()}
        kept: dict[Cell, Mask] = {}
        for key, atoms in remove.items():
            cell = cells.get(key)
            if cell is None or cell.size is None:
                raise OptionError(
                    f"there is no group of channels {key!r}",
                    hint="onnxslim inspect --channels lists them",
                )
            mask = np.ones(cell.size, np.bool_)
            for atom in atoms:
                if not 0 <= atom < cell.size:
                    raise OptionError(f"there is no channel {atom}", where=f"group {key}, of {cell.size}")
                mask[atom] = False
            if not mask.any():
                raise OptionError("all channels of a group would go", where=f"group {key}", hint="leave one")
            if not mask.all():
                kept[cell] = mask
        return Removal(found, kept)

    def masks(self) -> Iterator[tuple[ir.Value, dict[int, Mask]]]:
        """Every value that shrinks: axis -> which indices stay; along an open axis the mask repeats."""
        for value, axes in self.found.axes.items():
            masks = {axis: keep(layout, self.kept) for axis, layout in axes.items()}
            shrunk = {axis: mask for axis, mask in masks.items() if mask is not None}
            if shrunk:
                yield value, shrunk

    def sizes(self) -> Iterator[tuple[ir.Value, int, int]]:
        """Stored integers that hold sizes: value, element, what it becomes."""
        for (value, element), held in self.found.sizes.stored.items():
            if self._shrinks(held.layout):
                yield value, element, held.sign * self._size(held.layout)

    def copies(self) -> dict[tuple[ir.Node, int], dict[int, int]]:
        """Inputs of which a reader wants a corrected copy: node and index -> element -> what it becomes."""
        found: dict[tuple[ir.Node, int], dict[int, int]] = {}
        for held in self.found.sizes.copies:
            value = held.node.inputs[held.index]
            moves = value is not None and any(map(self._shrinks, self.found.sizes.resized.get(value, ())))
            if moves or self._shrinks(held.layout):
                size = held.sign * self._size(held.layout)
                found.setdefault((held.node, held.index), {})[held.element] = size
        return found

    def picks(self) -> Iterator[tuple[ir.Value, npt.NDArray[np.int64]]]:
        """Stored lists of indices: where every old index lies now, those from the end too."""
        seen: set[ir.Value] = set()
        for pick in self.found.picks:
            value, mask = pick.node.inputs[pick.index], keep(pick.layout, self.kept)
            if value is not None and mask is not None and value not in seen:
                seen.add(value)
                yield value, np.cumsum(mask, dtype=np.int64) - 1

    def attributes(self) -> Iterator[tuple[ir.Node, str, int | list[int]]]:
        """Attributes that hold sizes."""
        for attribute in self.found.attributes:
            content = attribute.content
            if isinstance(content, tuple):
                if any(not isinstance(part, int) and self._shrinks(part) for part in content):
                    sizes = [part if isinstance(part, int) else self._size(part) for part in content]
                    yield attribute.node, attribute.name, sizes
            elif self._shrinks(content):
                yield attribute.node, attribute.name, self._size(content)

    def lengths(self) -> Iterator[tuple[ir.Node, int, list[int]]]:
        """Inputs that were left out, and have to list sizes that are no longer equal."""
        for left_out in self.found.lengths:
            sizes = [self._size(part) for part in left_out.parts]
            if any(map(self._shrinks, left_out.parts)) and len(set(sizes)) > 1:
                yield left_out.node, left_out.index, sizes

    def frozen(self) -> Iterator[tuple[ir.Node, str, float]]:
        """Attributes whose default would change."""
        for frozen in self.found.frozen:
            if self._shrinks(frozen.layout) and frozen.name not in frozen.node.attributes:
                yield frozen.node, frozen.name, frozen.content

    def resized(self) -> Iterator[ir.Value]:
        """Integer tensors, stored or computed, that hold sizes that change."""
        for value, layouts in self.found.sizes.resized.items():
            if any(map(self._shrinks, layouts)):
                yield value

    def sums(self) -> Iterator[tuple[Sum, Mask]]:
        """Where a node adds up over an axis that shrinks."""
        for sum_ in self.found.sums:
            if (mask := keep(sum_.layout, self.kept)) is not None:
                yield sum_, mask

    def _shrinks(self, layout: Layout) -> bool:
        return keep(layout, self.kept) is not None

    def _size(self, layout: Layout) -> int:
        mask = keep(layout, self.kept)
        return (layout.size or 0) if mask is None else int(mask.sum())
