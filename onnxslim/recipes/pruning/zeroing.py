"""Zero single weights, which saves bytes, and time in other runtimes, but none in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.linears import products_of
from onnxslim.errors import OptionError
from onnxslim.passes.pack_zeros import PackZeros
from onnxslim.passes.zero_weights import ZeroWeights
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.pruning.observe import observe
from onnxslim.runtime.client import Worker

__all__ = ["WEIGHT_CRITERIA", "zeroed"]

WEIGHT_CRITERIA = ("random", "l1", "l2", "sparsity", "wanda")


def zeroed(
    worker: Worker,
    model: ir.Model,
    pattern: str,
    criterion: str,
    *,
    feeds: Any,
    exclude: str = "",
    seed: int = 0,
) -> Outcome:
    """Zero the weights that matter least, and store what is left compactly where that saves bytes.

    Args:
        pattern: a share, or N:M.
        criterion: of ``WEIGHT_CRITERIA``; ``l1``, ``l2`` and ``sparsity`` all are the magnitude here.
        feeds: what norms are observed on.

    Raises:
        OptionError: the criterion ranks channels only.
    """
    if criterion not in WEIGHT_CRITERIA:
        raise OptionError(
            f"the criterion {criterion!r} ranks channels, not single weights",
            hint=f"one of: {', '.join(WEIGHT_CRITERIA)}",
        )
    norms = {}
    if criterion == "wanda":
        seen = observe(worker, model, feeds, products_of(model), seed)
        norms = {
            name: np.sqrt(np.einsum("gii->gi", each.moments)[:, :-1] / max(each.count, 1))
            for name, each in seen.items()
        }
    by = "random" if criterion == "random" else "magnitude"
    step = ZeroWeights(pattern=pattern, by=by, norms=norms, exclude=exclude, seed=seed)  # type: ignore[arg-type]
    return run_steps(model, (step, PackZeros()))
