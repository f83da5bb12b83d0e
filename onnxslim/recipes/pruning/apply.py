"""Remove channels from a model, and let what is left make it good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels
from onnxslim.analysis.linears import products_of
from onnxslim.model import edit
from onnxslim.passes.base import Decline
from onnxslim.passes.prune_channels import PruneChannels
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.pruning.evidence import Evidence
from onnxslim.recipes.pruning.merging import Into, compensate
from onnxslim.recipes.pruning.plan import Removal
from onnxslim.recipes.pruning.reconstruct import reconstruct
from onnxslim.recipes.pruning.recur import recurrent_of
from onnxslim.recipes.pruning.refitted import Refitted
from onnxslim.recipes.pruning.renormalize import norms_of
from onnxslim.runtime.client import Worker

__all__ = ["Pruned", "kept_outputs", "pruned"]


@dataclass
class Pruned:
    """A model with channels removed: what the passes did, what became of each product, and what to say."""

    outcome: Outcome
    removal: Removal
    refitted: list[Refitted] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> ir.Model:
        """The model."""
        return self.outcome.model

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a report says of it."""
        if not self.refitted:
            return self.notes
        better = sum(each.damping is not None for each in self.refitted)
        return (
            *self.notes,
            f"{better} of {len(self.refitted)} products behind what went were refitted",
        )

    @property
    def declined(self) -> list[Decline]:
        """What the passes and the reconstruction left alone."""
        left = (Decline("reconstruct", r.name, r.declined) for r in self.refitted if r.declined)
        return [*self.outcome.declined, *left]


def pruned(
    base: ir.Model,
    channels: Channels,
    removal: Removal,
    *,
    worker: Worker | None = None,
    feeds: Any = None,
    merges: Into | None = None,
    evidence: Sequence[Evidence] = (),
    residual: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> Pruned:
    """Remove channels from a copy of ``base``.

    Args:
        feeds: what to reconstruct on; None leaves the weights as they are.
        merges: what goes is first merged so into what stays.
        evidence: of the groups, for that.
    """
    start = base
    if merges is not None and removal:
        start = base.clone()
        edit.know_names(start)
        compensate(start, evidence, removal, merges)
    result = Pruned(run_steps(start, (PruneChannels(dict(removal), residual=residual),)), removal)
    if feeds is not None and worker is not None and removal:
        kept = kept_outputs(base, channels, removal)
        result.refitted = reconstruct(worker, base, result.model, feeds, kept, seed=seed, progress=progress)
    return result


def kept_outputs(
    base: ir.Model, channels: Channels, removal: Mapping[str, Any]
) -> dict[str, npt.NDArray[np.int64]]:
    """The output channels that products and normalisations keep, by name, and the units that recurrent layers
    keep, by the name of R; what keeps all is left out."""
    axes = {p.weight.name: (p.name, p.shape, 0 if p.linear.outputs_first else 1) for p in products_of(base)}
    for norm in norms_of(base):
        size = norm.scale.const_value.size if norm.scale.const_value is not None else 0
        axes[norm.scale.name] = (norm.name, (size,), 0)
    for layer in recurrent_of(base):
        if layer.weight.const_value is not None:
            axes[layer.name] = (layer.name, tuple(layer.weight.const_value.shape.numpy()), 2)
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for key, atoms in removal.items():
        for member in channels.by_key[key].members:
            name, shape, axis = axes.get(member.value, ("", (), -1))
            if member.axis == axis:
                mask = masks.setdefault(name, np.ones(shape[axis], np.bool_))
                mask[member.indices(atoms)] = False
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}
