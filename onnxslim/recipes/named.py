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
from onnxslim.passes.simplify_reshapes import SimplifyReshapes
from onnxslim.recipes.engine import Repeat, Step

__all__ = ["NAMED_RECIPES", "simplify_steps"]


def simplify_steps() -> tuple[Step, ...]:
    """Equality-preserving clean-up; what removes most comes first, so that the others see less."""
    return (
        Repeat(
            (
                RemoveDeadCode(),
                InlineBranches(),
                FoldConstants(),
                SimplifyReshapes(),
                EliminateNoops(),
                ComposeMovements(),
                DeduplicateInitializers(),
                MergeCommonSubexpressions(),
                FoldBatchNorm(),
                FoldNormalization(),
                ArrangeGelu(),
            )
        ),
    )


NAMED_RECIPES: dict[str, Callable[[], tuple[Step, ...]]] = {"simplify": simplify_steps}
