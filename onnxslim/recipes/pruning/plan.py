"""Decide which channels go: rank them within their groups, then share out what has to be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels, Group
from onnxslim.recipes.pruning.allocation import Curve, evenly, greedily, options_of, removal
from onnxslim.recipes.pruning.criteria import Criterion
from onnxslim.recipes.pruning.evidence import Evidence, Weights
from onnxslim.recipes.pruning.observe import observe
from onnxslim.recipes.pruning.sensitivity import Prober
from onnxslim.recipes.pruning.widths import Widths
from onnxslim.runtime.client import Worker

__all__ = ["Allocation", "Plan", "Removal", "is_block", "make_plan"]

Feed = Mapping[str, Any]
Removal = Mapping[str, tuple[int, ...]]
Allocation = Literal["uniform", "global", "sensitivity", "error"]

_POINTS = 6  # widths at which the noise of a group is measured; between them it is interpolated
_PROBING = 1e12  # multiply-accumulates to spend on that; a model that is larger is measured on fewer inputs
_FREE = 1e-3  # of what a channel is worth on average
_LEAST = 4  # inputs, but no fewer than these


@dataclass
class Plan:
    """Ranked groups of one model, from which any target can be met.

    Attributes:
        curves: one for each group that may lose atoms.
        widths: the costs; what is removed at the moment.
        allocation: how the saving is shared out.
        evidence: of the groups.
    """

    curves: Sequence[Curve]
    widths: Widths
    allocation: Allocation
    overrides: Mapping[str, float] = field(default_factory=dict)
    evidence: Sequence[Evidence] = ()

    def meet(self, kind: str, target: float) -> Removal:
        """What to remove so that ``widths.total(kind)`` is at most ``target``, or as near as can be."""
        self._reset()
        free = [curve for curve in self.curves if curve.group.key not in self.overrides]
        if self.allocation == "uniform":
            low, high = 0.0, 1.0
            for _ in range(20):
                middle = (low + high) / 2
                evenly(free, self.widths, middle)
                low, high = (middle, high) if self.widths.total(kind) > target else (low, middle)
            evenly(free, self.widths, high)
        else:
            greedily(free, self.widths, kind, target)
        return removal(self.curves, self.widths)

    def share(self, ratio: float) -> Removal:
        """What to remove so that a share of the channels goes."""
        self._reset()
        if self.allocation == "uniform":
            evenly([c for c in self.curves if c.group.key not in self.overrides], self.widths, ratio)
            return removal(self.curves, self.widths)
        return self.meet("channels", (1 - ratio) * self.widths.total("channels"))

    def free(self, limit: float = _FREE) -> Removal:
        """What to remove because it costs no more than ``limit`` by the criterion: next to nothing."""
        self._reset()
        for curve in self.curves:
            if curve.group.key not in self.overrides:
                worthless = [n for n, loss in zip(curve.removed, curve.loss, strict=True) if loss <= limit]
                self.widths.remove(curve.group.key, curve.order[: worthless[-1]])
        return removal(self.curves, self.widths)

    def _reset(self) -> None:
        for curve in self.curves:
            self.widths.remove(curve.group.key, ())
        for curve in self.curves:
            if curve.group.key in self.overrides:
                evenly([curve], self.widths, self.overrides[curve.group.key])


def make_plan(
    worker: Worker,
    model: ir.Model,
    channels: Channels,
    groups: Sequence[Group],
    criterion: Criterion,
    *,
    feeds: Any = None,
    held_out: Sequence[Feed] = (),
    allocation: Allocation = "sensitivity",
    multiple: int = 8,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> Plan:
    """Rank the atoms of ``groups`` and learn what each group costs.

    Args:
        channels: of the model.
        feeds: what the products are observed on, where the criterion or the allocation needs it.
        held_out: other feeds, on which noise is measured: the first of them, the fewer the larger the model.
        multiple: numbers of atoms that stay are multiples of it, where an atom is a single channel.
        seed: of the random criterion and of the sampled positions.
    """
    weights = Weights(model)
    if feeds is not None and (criterion.needs_data or allocation == "sensitivity"):
        progress("observing activations")
        wanted = {m.value for group in groups for m in group.with_role("consumer")}
        products = [product for name, product in weights.products.items() if name in wanted]
        weights.seen = observe(worker, model, feeds, products, seed)
    random = np.random.default_rng(seed)
    evidence = [weights.evidence(group) for group in groups]
    widths = Widths(model, channels, held_out[0] if held_out else None)
    ranked: list[tuple[Evidence, Any]] = []
    for each in evidence:
        progress(f"ranking {each.group.key}")
        ranked.append((each, np.asarray(criterion.score(each, random), np.float64)))
    options = {e.group.key: options_of(e.size, 1 if is_block(e.group) else multiple) for e in evidence}
    usable = [(e, s) for e, s in ranked if len(options[e.group.key]) > 1]
    prober = None
    if allocation == "sensitivity" and usable and held_out:
        runs = sum(min(_POINTS, len(options[each.group.key]) - 1) for each, _ in usable)
        price = runs * max(widths.total_at_full("macs"), 1.0)
        count = max(_LEAST, int(_PROBING / price))
        chosen = [each for each, _ in usable]
        prober = Prober(worker, weights, chosen, held_out[:count], criterion.merges)
    curves = []
    for each, score in usable:
        order = np.argsort(score, kind="stable")
        removed = options[each.group.key]
        if prober is not None:
            progress(f"measuring {each.group.key}")
            loss = _measured(prober, each, order, removed)
        elif allocation == "error":
            loss = _reached(score, order, removed)
        else:
            loss = _summed(score, order, removed)
        curves.append(Curve(each.group, order, removed, loss))
    if prober is not None:
        prober.close()
    return Plan(curves, widths, allocation, evidence=evidence)


def is_block(group: Group) -> bool:
    """Whether an atom is several neighbouring channels, as a head of an attention is."""
    return any(member.inner > 1 for member in group.with_role("producer"))


def _measured(prober: Prober, evidence: Evidence, order: Any, removed: Sequence[int]) -> tuple[float, ...]:
    """Measured at some widths, and interpolated between."""
    step = max(1, -(-(len(removed) - 1) // _POINTS))
    points = sorted({0, *range(step, len(removed), step), len(removed) - 1})
    found = prober.curve(evidence, order, [removed[i] for i in points])
    return tuple(np.interp(removed, [removed[i] for i in points], found).tolist())


def _reached(score: Any, order: Any, removed: Sequence[int]) -> tuple[float, ...]:
    """The relative error behind the group, of a criterion that says which energy is lost by then."""
    energy = np.concatenate([[0.0], np.maximum.accumulate(np.maximum(score[order], 0.0))])
    return tuple(np.sqrt(energy[list(removed)]).tolist())


def _summed(score: Any, order: Any, removed: Sequence[int]) -> tuple[float, ...]:
    """The scores of what goes, relative to those of the group."""
    total = float(score.sum()) or 1.0
    sums = np.concatenate([[0.0], np.cumsum(score[order])]) / total * len(score)
    return tuple(sums[list(removed)].tolist())
