"""Milder forms of candidates that were too noisy: more bits for some weights, float for some products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.candidates import dynamic_candidate, static_candidate
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.mixed_precision import most_precise
from onnxslim.recipes.storage import Choices

__all__ = ["Milder"]

_FEEDS = 4

Accepts = Callable[[ir.Model], bool]


@dataclass
class Milder:
    """Finds the least mild form of a candidate that is accepted.

    Args:
        model: the simplified model, in float.
        feeds: held-out feeds on which noise is measured.
        packing: of the weights that stay in float; none: that of the candidate.  Found milder, it serves the
            later candidates too.
    """

    model: ir.Model
    feeds: Sequence[Mapping[str, Any]]
    packing: Sequence[Step] = ()

    def __call__(self, candidate: Candidate, accepts: Accepts) -> Candidate | None:
        """The milder candidate; None where even the mildest is not accepted, or there is none."""
        if candidate.storage is not None:
            found = self._cleaner(candidate, candidate.storage, accepts)
            if found is not None and candidate.essential == PackWeights.name:
                self.packing = found.packing
            return found
        forms = [each for each in candidate.head if isinstance(each, QuantizeStatic | QuantizeDynamic)]
        if not forms:
            return None
        packing = self.packing or candidate.packing
        milder = most_precise(
            self.model,
            forms[-1],
            self.feeds[:_FEEDS],
            lambda model: accepts(run_steps(model, (*packing, *candidate.ports)).model),
        )
        if milder is None:
            return None
        if isinstance(milder, QuantizeStatic):
            found = static_candidate(milder, packing)
        else:
            found = dynamic_candidate(milder, packing)
        return replace(found, ports=candidate.ports)

    def _cleaner(self, candidate: Candidate, storage: Choices, accepts: Accepts) -> Candidate | None:
        found: Candidate | None = None
        low, high = (
            0,
            len(storage.levels),
        )  # of the levels below ``low`` none is accepted, that at ``high`` is
        while low < high:
            middle = (low + high) // 2
            level = storage.levels[middle]
            name, steps = f"{candidate.name}, {level:g} dB", storage.steps(level)
            form = replace(candidate, name=name, packing=steps, essential="")  # halves may be what is left
            if accepts(run_steps(self.model, form.passes).model):
                found, high = form, middle
            else:
                low = middle + 1
        return found
