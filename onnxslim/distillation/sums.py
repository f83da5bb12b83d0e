"""A weight that is a sum of few signs times scales: latent floats become the nearest of such sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.distillation.forms import Coded, Grown, replace_stored

__all__ = ["Summed"]

Array = npt.NDArray[Any]


@dataclass
class Summed:
    """``a_1 * b_1 + ... + a_k * b_k``, where each ``b`` is one of two values.

    Gradients go straight through the rounding to the nearest of the ``2 ** k`` sums; those of the scales are
    with the signs as they are.  Source: Zhang et al., "LQ-Nets", https://arxiv.org/abs/1807.10029

    Attributes:
        bases: the parts, two levels each, in the order in which they are added up.
    """

    bases: tuple[Coded, ...]

    def __post_init__(self) -> None:
        growths: dict[str, Array] = {}
        for base in self.bases:  # the scales of several parts may lie in one stored tensor
            base.growth = growths.setdefault(base.scale.name, base.growth)
        self._growths = [growth for name, growth in growths.items() if name]
        read = (base.codes.read() > base.codes.low for base in self.bases)
        self.latent = self.total(read).astype(np.float32)
        for base in self.bases:
            base.latent = self.latent[:0]  # theirs are not used

    @property
    def name(self) -> str:
        return self.bases[0].name

    @property
    def kind(self) -> str:
        return f"{len(self.bases)} signs"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.bases[0].shape

    @property
    def follows(self) -> Grown | None:
        """What is trained elsewhere and multiplies all parts."""
        return self.bases[0].follows

    @follows.setter
    def follows(self, other: Grown | None) -> None:
        for base in self.bases:
            base.follows = other

    @property
    def parameters(self) -> dict[str, Array]:
        scales = {f"scale{number}": growth for number, growth in enumerate(self._growths)}
        return {"weight": self.latent, **scales}

    def gap(self) -> Array:
        """From one level of the finest part to the other, of each element."""
        return np.asarray(np.min([base.gap() for base in self.bases], axis=0))

    def remember(self, original: Array) -> None:
        """Let the latent floats be what the sums were rounded from, where that rounds to these sums."""
        before = self.latent.copy()
        self.latent[:] = original.reshape(-1)
        moved = self.value().reshape(-1) != before
        self.latent[moved] = before[moved]

    def value(self) -> Array:
        return self.total(self._chosen()).reshape(self.shape).astype(np.float32)

    def pull(self, gradient: Array) -> dict[str, Array]:
        flat = gradient.reshape(-1)
        lowest, highest = (sum(ends) for ends in zip(*map(_sorted, self.bases), strict=True))
        beyond = self.gap() / 2
        within = (self.latent >= lowest - beyond) & (self.latent <= highest + beyond)
        found: dict[str, Array] = {"weight": np.where(within, flat, np.float32(0))}
        totals = [np.zeros(len(growth), np.float32) for growth in self._growths]
        for base, high in zip(self.bases, self._chosen(), strict=True):
            if base.scale.name:
                each = (flat * _level(base, high)).astype(np.float64)
                place = next(at for at, growth in enumerate(self._growths) if growth is base.growth)
                totals[place] += np.bincount(base.scale.group, each, len(base.growth)).astype(np.float32)
        return found | {f"scale{number}": total for number, total in enumerate(totals)}

    def store(self, model: ir.Model) -> None:
        for name, content in self.contents().items():
            replace_stored(model, name, content)

    def contents(self) -> dict[str, Array]:
        """What is stored, by name."""
        contents: dict[str, Array] = {}
        for base, high in zip(self.bases, self._chosen(), strict=True):
            before = contents.get(base.name, base.codes.stored)
            codes = base.codes.low + base.codes.step * (base.codes.levels - 1) * high.astype(np.int64)
            contents[base.name] = replace(base.codes, stored=before).packed(codes)
            if base.scale.name:
                contents[base.scale.name] = base.scales()
        return contents

    def total(self, chosen: Iterator[Array] | list[Array]) -> Array:
        """The sum of the parts, each at its higher code where that is chosen."""
        parts = (_level(base, high) for base, high in zip(self.bases, chosen, strict=True))
        total = next(parts)
        for part in parts:
            total = total + part
        return total

    def _chosen(self) -> list[Array]:
        """For each part, where it is at its higher code: the nearest of all sums."""
        levels = [base.ends() for base in self.bases]
        nearest = np.zeros(self.latent.size, np.uint8)
        least = np.full(self.latent.size, np.inf, np.float32)
        for number in range(2 ** len(levels)):
            total = levels[0][number & 1]
            for place, ends in enumerate(levels[1:], 1):
                total = total + ends[number >> place & 1]
            off = np.abs(self.latent - total)
            nearest = np.where(off < least, np.uint8(number), nearest)
            least = np.minimum(off, least)
        return [(nearest >> place & 1).astype(bool) for place in range(len(levels))]


def _level(base: Coded, high: Array) -> Array:
    low_end, high_end = base.ends()
    return np.where(high, high_end, low_end)


def _sorted(base: Coded) -> tuple[Array, Array]:
    one, other = base.ends()
    return np.minimum(one, other), np.maximum(one, other)
