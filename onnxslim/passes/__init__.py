"""The passes, one file each: ``from onnxslim.passes import FoldConstants``.

Their classes load on first use; :mod:`onnxslim.passes.registry` finds those of other packages too.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxslim.passes.arrange_gelu import ArrangeGelu as ArrangeGelu
    from onnxslim.passes.base import Pass as Pass
    from onnxslim.passes.base import Promise as Promise
    from onnxslim.passes.binarize_activations import BinarizeActivations as BinarizeActivations
    from onnxslim.passes.binarize_weights import BinarizeWeights as BinarizeWeights
    from onnxslim.passes.codebook_weights import CodebookWeights as CodebookWeights
    from onnxslim.passes.compose_movements import ComposeMovements as ComposeMovements
    from onnxslim.passes.deduplicate_initializers import DeduplicateInitializers as DeduplicateInitializers
    from onnxslim.passes.eliminate_noops import EliminateNoops as EliminateNoops
    from onnxslim.passes.equalize_channels import EqualizeChannels as EqualizeChannels
    from onnxslim.passes.extract_functions import ExtractFunctions as ExtractFunctions
    from onnxslim.passes.fold_batch_norm import FoldBatchNorm as FoldBatchNorm
    from onnxslim.passes.fold_constants import FoldConstants as FoldConstants
    from onnxslim.passes.fold_normalization import FoldNormalization as FoldNormalization
    from onnxslim.passes.halve_weights import HalveWeights as HalveWeights
    from onnxslim.passes.inline_branches import InlineBranches as InlineBranches
    from onnxslim.passes.integer_io import IntegerIo as IntegerIo
    from onnxslim.passes.merge_common_subexpressions import (
        MergeCommonSubexpressions as MergeCommonSubexpressions,
    )
    from onnxslim.passes.merge_similar_weights import MergeSimilarWeights as MergeSimilarWeights
    from onnxslim.passes.pack_integers import PackIntegers as PackIntegers
    from onnxslim.passes.pack_weights import PackWeights as PackWeights
    from onnxslim.passes.pack_zeros import PackZeros as PackZeros
    from onnxslim.passes.prune_channels import PruneChannels as PruneChannels
    from onnxslim.passes.quantize_blocks import QuantizeBlocks as QuantizeBlocks
    from onnxslim.passes.quantize_dynamic import QuantizeDynamic as QuantizeDynamic
    from onnxslim.passes.quantize_ports import QuantizePorts as QuantizePorts
    from onnxslim.passes.quantize_static import QuantizeStatic as QuantizeStatic
    from onnxslim.passes.quantize_vectors import QuantizeVectors as QuantizeVectors
    from onnxslim.passes.raise_opset import RaiseOpset as RaiseOpset
    from onnxslim.passes.remove_dead_code import RemoveDeadCode as RemoveDeadCode
    from onnxslim.passes.replace_weights import ReplaceWeights as ReplaceWeights
    from onnxslim.passes.separate_vectors import SeparateVectors as SeparateVectors
    from onnxslim.passes.set_input_shapes import SetInputShapes as SetInputShapes
    from onnxslim.passes.share_weights import ShareWeights as ShareWeights
    from onnxslim.passes.simplify_reshapes import SimplifyReshapes as SimplifyReshapes
    from onnxslim.passes.skip_blocks import SkipBlocks as SkipBlocks
    from onnxslim.passes.zero_weights import ZeroWeights as ZeroWeights


def __getattr__(name: str) -> object:
    if name in ("Pass", "Promise"):
        return getattr(importlib.import_module("onnxslim.passes.base"), name)
    # the class FoldConstants lives in fold_constants.py
    module = f"onnxslim.passes.{re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()}"
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module 'onnxslim.passes' has no attribute {name!r}") from None
