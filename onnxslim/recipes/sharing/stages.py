"""The stages of sharing what is only similar, and their milder forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from onnxslim._ir import ir
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.parts import Parts
from onnxslim.recipes.sharing.request import ShareRequest
from onnxslim.recipes.sharing.stage import Form, Stage
from onnxslim.recipes.storage import CODES_OPSET, Storage, inputs_of_weights
from onnxslim.runtime.client import Worker

__all__ = ["Work", "stages"]

_LEVELS_DB = tuple(float(level) for level in range(15, 64, 4))  # of noise that milder codebooks leave
_CHOICE_FEEDS = 16
_MOST = 256  # values of the table of a weight that few are too few for


@dataclass(frozen=True)
class Work:
    """What a stage needs: where models run, the data, and what was asked for."""

    worker: Worker
    parts: Parts
    held_out: Sequence[Mapping[str, Any]]
    request: ShareRequest
    progress: Callable[[str], None]

    @property
    def is_informed(self) -> bool:
        """Whether there are real inputs."""
        return not self.parts.fit.is_random


Make = Callable[[Work, ir.Model], Stage]


def stages(request: ShareRequest) -> Iterator[Make]:
    """Those that were asked for, in their order."""
    if request.codebook is not None:
        yield _codebook


def _codebook(work: Work, model: ir.Model) -> Stage:
    """All weights in tables of few values; in milder forms those that bring most noise have larger tables."""
    entries = work.request.codebook
    assert entries is not None
    head = (RaiseOpset(opset=CODES_OPSET),)
    base = run_steps(model, head).model
    inputs = inputs_of_weights(base, work.parts.fit) if work.is_informed else None
    few = CodebookWeights(entries=entries, min_sqnr_db=0.0, inputs=inputs)
    many = CodebookWeights(entries=_MOST, inputs=inputs)

    def made(steps: Sequence[Step], level: float | None) -> Form:
        outcome = run_steps(model, (*head, *steps))
        if level is None:
            return Form(outcome, "of every weight that gets smaller by it")
        larger = sum(
            len(step.only) for step in steps if isinstance(step, CodebookWeights) and step.entries == _MOST
        )
        return Form(outcome, f"{larger} weights have {_MOST} values, for {level:g} dB at the outputs")

    forms = [partial(made, (few,), None)]
    if work.request.drop is not None:
        storage = Storage(base, work.held_out[:_CHOICE_FEEDS], (few, many), rest=())

        def milder(level: float) -> Form:
            return made(storage.steps(level), level)

        forms += [partial(milder, level) for level in _LEVELS_DB]
    return Stage(f"codebook of {entries}", forms)
