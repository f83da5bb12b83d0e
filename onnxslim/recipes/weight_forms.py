"""What became of each weight: in how many bits it is stored, how exactly, and why not in fewer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes.binarize_weights import BinarizeWeights
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.storage import Stored
from onnxslim.reconstruct.binary import Binary
from onnxslim.reconstruct.blocks import Coded
from onnxslim.reconstruct.rounding import Rounded, sqnr_db

__all__ = ["weight_forms"]


def weight_forms(model: ir.Model, candidate: Candidate) -> list[dict[str, Any]]:
    """One entry for each weight, of rank 2 and more, of a candidate with binary weights, the largest first.

    Args:
        model: the simplified model that the candidate's passes were applied to.

    Returns:
        ``weight``, ``form`` (in words), ``bases`` (None for other forms), ``bits`` (of a weight, scales
        included), ``bytes``, ``sqnr_db`` (of the weight) and ``why`` it is not stored in fewer bits; none for
        other candidates.
    """
    steps = candidate.packing
    if not any(isinstance(step, BinarizeWeights) for step in steps):
        return []
    fitted = run_steps(model, candidate.head).model
    noises = {} if candidate.storage is None else candidate.storage.noises
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        if not hasattr(step, "stored"):  # it changes weights; the others store what there is
            fitted = run_steps(fitted, (step,)).model
            continue
        for name, stored in cast("Mapping[str, Stored]", cast("Any", step).stored(fitted)).items():
            weight = edit.constant_value(fitted.graph.initializers[name])
            if name in found or weight is None or weight.ndim < 2:
                continue
            bits = 8 * stored.nbytes / weight.size
            narrower = [known for size, known in noises.get(name, ()) if size < stored.nbytes]
            found[name] = {
                "weight": name,
                "form": _words(stored),
                "bases": stored.bases if isinstance(stored, Binary) else None,
                "bits": bits,
                "bytes": stored.nbytes,
                "sqnr_db": _finite(sqnr_db(weight.astype(np.float64), stored.decode().astype(np.float64))),
                "why": f"fewer bits alone leave {-10 * math.log10(narrower[-1]):.0f} dB"
                if narrower and narrower[-1] > 0
                else "",
            }
    return sorted(found.values(), key=lambda entry: -entry["bytes"])


def _words(stored: Stored) -> str:
    if isinstance(stored, Binary):
        return "1 sign" if stored.bases == 1 else f"{stored.bases} signs"
    if isinstance(stored, Coded):
        blocks = ", in blocks" if stored.codes.shape[1] > 1 else ""
        return f"{stored.bits} bits{blocks}"
    return "8 bits" if isinstance(stored, Rounded) else "16 bits"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
