"""Several removals, one after the other, as one removal from the first model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.channels import Channels
from onnxslim.recipes.pruning.plan import Removal

__all__ = ["Left"]


@dataclass(frozen=True)
class Left:
    """What is left of the groups of a model: of each group of the smaller one, where its atoms come from.

    Attributes:
        removed: what went so far, in the terms of the first model.
        origin: key of a group of the smaller model -> key of the same in the first, and its atoms there.
    """

    removed: Removal
    origin: Mapping[str, tuple[str, npt.NDArray[np.int64]]]

    @classmethod
    def of(cls, first: Channels, removed: Removal, now: Channels) -> Left | None:
        """Match the groups of a model with those of what it was made from: both are in the graph's order.

        Returns:
            None where they are not the same groups: one of a single atom may have vanished.
        """
        if len(first.groups) != len(now.groups):
            return None
        origin = {}
        for old, new in zip(first.groups, now.groups, strict=True):
            kept = np.setdiff1d(np.arange(old.size), removed.get(old.key, ()))
            if len(kept) != new.size or old.members[0].value != new.members[0].value:
                return None
            origin[new.key] = (old.key, kept)
        return cls(removed, origin)

    def and_then(self, removal: Removal) -> dict[str, tuple[int, ...]]:
        """What has gone of the first model when this goes of the smaller one."""
        found = {key: tuple(atoms) for key, atoms in self.removed.items()}
        for key, atoms in removal.items():
            first, kept = self.origin[key]
            more = (int(atom) for atom in kept[list(atoms)])
            found[first] = tuple(sorted((*found.get(first, ()), *more)))
        return found
