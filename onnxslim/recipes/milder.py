"""Milder forms of candidates that were too noisy: more bits for some weights, float for some products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.candidates import Candidate, packed_candidate, static_candidate
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.mixed_precision import most_precise
from onnxslim.recipes.storage import Storage

__all__ = ["Milder"]

_FEEDS = 4
_LEVELS_DB = (36.0, 42.0, 48.0, 54.0, 60.0, 90.0)  # of all weights together; the last is 16 bits

Accepts = Callable[[ir.Model], bool]


@dataclass
class Milder:
    """Finds the least mild form of a candidate that is accepted.

    Args:
        model: the simplified model, in float.
        feeds: held-out feeds on which noise is measured.
        storage: of the weights that stay in float.
        packing: the passes for them; none: those of the candidate.  Found milder, they serve later ones too.
    """

    model: ir.Model
    feeds: Sequence[Mapping[str, Any]]
    storage: Storage
    packing: Sequence[Step] = ()

    def __call__(self, candidate: Candidate, accepts: Accepts) -> Candidate | None:
        """The milder candidate; None where even the mildest is not accepted."""
        own = candidate.passes[: len(candidate.passes) - len(candidate.ports)]
        form = next((each for each in own if isinstance(each, QuantizeStatic)), None)
        if form is None:
            found = self._packed(accepts)
        else:
            packing = self.packing or own[own.index(form) + 1 :]
            milder = most_precise(
                self.model,
                form,
                self.feeds[:_FEEDS],
                lambda model: accepts(run_steps(model, packing).model),
            )
            found = None if milder is None else static_candidate(milder, packing)
        if found is None:
            return None
        return replace(found, passes=(*found.passes, *candidate.ports), ports=candidate.ports)

    def _packed(self, accepts: Accepts) -> Candidate | None:
        found: Candidate | None = None
        low, high = 0, len(_LEVELS_DB)  # of the levels below ``low`` none is accepted, that at ``high`` is
        while low < high:
            middle = (low + high) // 2
            form = packed_candidate(self.storage, _LEVELS_DB[middle])
            if accepts(run_steps(self.model, form.passes).model):
                found, high, self.packing = form, middle, form.passes
            else:
                low = middle + 1
        return found
