"""Milder forms of candidates that were too noisy: more bits for some weights, float for some products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_blocks import QuantizeBlocks
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.candidates import Candidate, dynamic_candidate, static_candidate
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.mixed_precision import most_precise

__all__ = ["Milder"]

_FEEDS = 4
# What 8 bits must leave of a weight; what they do not is stored in 16.  Most weights have 35 to 45 dB.
_LEVELS_DB = (31.0, 34.0, 37.0, 40.0, 43.0, math.inf)

Accepts = Callable[[ir.Model], bool]


@dataclass
class Milder:
    """Finds the least mild form of a candidate that is accepted.

    Args:
        model: the simplified model, in float.
        feeds: held-out feeds on which noise is measured.
        packing: how what stays in float is stored; found milder, it serves the later candidates too.
    """

    model: ir.Model
    feeds: Sequence[Mapping[str, Any]]
    packing: tuple[Step, ...] = (PackWeights(),)

    def __call__(self, candidate: Candidate, accepts: Accepts) -> Candidate | None:
        """The milder candidate; None where even the mildest is not accepted."""
        if candidate.essential == QuantizeBlocks.name:
            return None  # there is one of 8 bits among them
        forms = [each for each in candidate.passes if isinstance(each, QuantizeStatic | QuantizeDynamic)]
        if not forms:
            found = self._packed(accepts)
        else:
            milder = most_precise(
                self.model,
                forms[-1],
                self.feeds[:_FEEDS],
                lambda model: accepts(run_steps(model, self.packing).model),
            )
            if isinstance(milder, QuantizeStatic):
                found = static_candidate(milder, self.packing)
            else:
                found = None if milder is None else dynamic_candidate(milder, self.packing)
        if found is None:
            return None
        kinds = [isinstance(each, PackWeights) for each in candidate.passes]
        after = tuple(candidate.passes)[len(kinds) - kinds[::-1].index(True) :] if any(kinds) else ()
        return replace(found, passes=(*found.passes, *after))  # integer ports come last

    def _packed(self, accepts: Accepts) -> Candidate | None:
        low, high = 0, len(_LEVELS_DB)  # of the levels below ``low`` none is accepted, that at ``high`` is
        while low < high:
            middle = (low + high) // 2
            steps = (PackWeights(min_sqnr_db=_LEVELS_DB[middle]), HalveWeights())
            if accepts(run_steps(self.model, steps).model):
                self.packing, high = steps, middle
            else:
                low = middle + 1
        if high == len(_LEVELS_DB):
            return None
        bits = "16 bits" if high == len(_LEVELS_DB) - 1 else "8 bits, the noisiest 16"
        return Candidate(f"packed weights, {bits}", self.packing)
