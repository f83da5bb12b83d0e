"""Leave out whole residual blocks: those whose effect on the outputs is smallest for what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.blocks import find_blocks
from onnxslim.errors import BudgetError
from onnxslim.passes.remove_dead_code import RemoveDeadCode
from onnxslim.passes.skip_blocks import SkipBlocks
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.noise import noise_to_signal, outputs_of
from onnxslim.recipes.pruning.widths import macs_for
from onnxslim.runtime.client import Worker

__all__ = ["block_names", "rank_blocks", "skip_until", "skipped"]


def skipped(model: ir.Model, names: Sequence[str]) -> Outcome:
    """A copy without these blocks."""
    return run_steps(model, (SkipBlocks(outputs=tuple(names)), RemoveDeadCode()))


def rank_blocks(
    worker: Worker, model: ir.Model, names: Sequence[str], feeds: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Names of blocks by the noise that leaving out each brings for the products it saves, least first."""
    reference, full = outputs_of(worker, model, feeds), macs_for(model, feeds[0]) or 0
    price = {}
    for name in names:
        without = skipped(model, [name]).model
        saved = full - (macs_for(without, feeds[0]) or 0)
        price[name] = noise_to_signal(reference, outputs_of(worker, without, feeds)) / max(saved, 1)
    return sorted(names, key=price.__getitem__)


def skip_until(
    model: ir.Model, ranked: Sequence[str], met: Callable[[ir.Model], bool]
) -> tuple[Outcome, list[str]]:
    """Leave out one block after the other until a target is met.

    Raises:
        BudgetError: it is not met without any of them.
    """
    for count in range(len(ranked) + 1):
        outcome = skipped(model, ranked[:count])
        if met(outcome.model):
            return outcome, list(ranked[:count])
    raise BudgetError(
        f"leaving out all {len(ranked)} residual blocks does not meet the target",
        hint="relax the target, or prune channels",
    )


def block_names(model: ir.Model) -> list[str]:
    """The names of all residual blocks."""
    return [block.name for block in find_blocks(model)]
