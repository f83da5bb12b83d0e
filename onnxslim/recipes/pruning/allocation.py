"""How many channels go from which group: a like share of each, or where it costs least for the saving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.channels import Group
from onnxslim.recipes.pruning.widths import Widths

__all__ = ["Curve", "evenly", "greedily", "options_of", "removal"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """One group: the order in which its atoms go, and what it costs in accuracy to let some go.

    Attributes:
        order: atoms, the least important first.
        removed: numbers of atoms that may be removed, from none upwards.
        loss: for each of these numbers, never falling.
    """

    group: Group
    order: npt.NDArray[np.int64]
    removed: tuple[int, ...]
    loss: tuple[float, ...]


def options_of(size: int, multiple: int, most: float = 1.0) -> tuple[int, ...]:
    """How many of ``size`` atoms may be removed so that multiples of ``multiple`` are left, at least one.

    Args:
        most: the largest share.

    Example:
        >>> options_of(24, 8), options_of(20, 8), options_of(6, 8)
        ((0, 8, 16), (0, 4, 12), (0,))
    """
    step = max(1, multiple)
    left = range(step, size, step)
    return (0, *(size - kept for kept in reversed(left) if size - kept <= most * size))


def evenly(curves: Sequence[Curve], widths: Widths, ratio: float) -> None:
    """Remove the same share of each group, rounded to what may be removed."""
    for curve in curves:
        wanted = ratio * curve.group.size
        chosen = min(curve.removed, key=lambda option: (abs(option - wanted), option))
        widths.remove(curve.group.key, curve.order[:chosen])


def greedily(curves: Sequence[Curve], widths: Widths, kind: str, target: float) -> bool:
    """Remove where the loss is least for what is saved, until ``widths.total(kind)`` is at most ``target``.

    Each step takes, of all groups and all numbers of atoms still ahead, the one with the least loss for the
    saving: groups whose loss bends downwards are taken in one go.

    Returns:
        Whether the target was reached.
    """
    at = dict.fromkeys((curve.group.key for curve in curves), 0)
    total = widths.total(kind)
    while total > target:
        best: tuple[float, Curve, int, float] | None = None
        for curve in curves:
            key, now = curve.group.key, at[curve.group.key]
            for index in range(now + 1, len(curve.removed)):
                widths.remove(key, curve.order[: curve.removed[index]])
                saved = total - widths.total(kind)
                if saved > 0:
                    price = max(curve.loss[index] - curve.loss[now], 0.0) / saved
                    if best is None or price < best[0]:
                        best = (price, curve, index, total - saved)
            widths.remove(key, curve.order[: curve.removed[now]])
        if best is None or not math.isfinite(best[0]):
            return False
        _, curve, index, total = best
        at[curve.group.key] = index
        widths.remove(curve.group.key, curve.order[: curve.removed[index]])
    _give_back(curves, widths, kind, target, at)
    return True


def _give_back(curves: Sequence[Curve], widths: Widths, kind: str, target: float, at: dict[str, int]) -> None:
    """The last steps may have saved more than was asked for: undo what gains most while the target holds."""
    while True:
        best: tuple[float, Curve, int] | None = None
        for curve in curves:
            key, now = curve.group.key, at[curve.group.key]
            for index in range(now):
                gain = curve.loss[now] - curve.loss[index]
                if gain > 0 and (best is None or gain > best[0]):
                    widths.remove(key, curve.order[: curve.removed[index]])
                    if widths.total(kind) <= target:
                        best = (gain, curve, index)
            widths.remove(key, curve.order[: curve.removed[now]])
        if best is None:
            return
        _, curve, index = best
        at[curve.group.key] = index
        widths.remove(curve.group.key, curve.order[: curve.removed[index]])


def removal(curves: Sequence[Curve], widths: Widths) -> Mapping[str, tuple[int, ...]]:
    """What is removed, by the key of the group; groups that keep everything are left out."""
    found = {}
    for curve in curves:
        atoms = widths.removed.get(curve.group.key)
        if atoms is not None and len(atoms):
            found[curve.group.key] = tuple(sorted(int(atom) for atom in atoms))
    return found
