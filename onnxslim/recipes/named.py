"""Recipes with a name: the steps that the verbs run unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable

from onnxslim.passes.arrange_gelu import ArrangeGelu
from onnxslim.passes.compose_movements import ComposeMovements
from onnxslim.passes.deduplicate_initializers import DeduplicateInitializers
from onnxslim.passes.eliminate_noops import EliminateNoops
from onnxslim.passes.fold_batch_norm import FoldBatchNorm
from onnxslim.passes.fold_constants import FoldConstants
from onnxslim.passes.fold_normalization import FoldNormalization
from onnxslim.passes.inline_branches import InlineBranches
from onnxslim.passes.merge_common_subexpressions import MergeCommonSubexpressions
from onnxslim.passes.remove_dead_code import RemoveDeadCode
from onnxslim.passes.share_weights import ShareWeights
from onnxslim.passes.simplify_reshapes import SimplifyReshapes
from onnxslim.recipes.engine import Repeat, Step

__all__ = ["NAMED_RECIPES", "share_steps", "simplify_steps"]


def simplify_steps(*, joining: bool = True) -> tuple[Step, ...]:
    """Equality-preserving clean-up; what removes most comes first, so that the others see less.

    Args:
        joining: store equal tensors once; not where each of them will be trained.
    """
    return (
        Repeat(
            (
                RemoveDeadCode(),
                InlineBranches(),
                FoldConstants(),
                SimplifyReshapes(),
                EliminateNoops(),
                ComposeMovements(),
                *((DeduplicateInitializers(),) if joining else ()),
                MergeCommonSubexpressions(),
                FoldBatchNorm(),
                FoldNormalization(),
                ArrangeGelu(),
            )
        ),
    )


def share_steps() -> tuple[Step, ...]:
    """Every weight once, and every computation over equal weights and inputs once."""
    return (Repeat((DeduplicateInitializers(), MergeCommonSubexpressions(), ShareWeights())),)


NAMED_RECIPES: dict[str, Callable[[], tuple[Step, ...]]] = {
    "share": share_steps,
    "simplify": simplify_steps,
}
