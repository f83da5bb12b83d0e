"""The stages of sharing what is only similar, and their milder forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.channels import find_groups
from onnxslim.measure.differences import Difference
from onnxslim.passes.base import Decline, Pass
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.merge_similar_weights import MergeSimilarWeights
from onnxslim.passes.quantize_vectors import QuantizeVectors
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.few_bits import moments_of
from onnxslim.recipes.fitted_weights import fitted_books
from onnxslim.recipes.noise import noise_to_signal
from onnxslim.recipes.parts import Parts
from onnxslim.recipes.pruning.apply import pruned
from onnxslim.recipes.pruning.criteria import criterion
from onnxslim.recipes.pruning.plan import is_block, make_plan
from onnxslim.recipes.pruning.samples import held
from onnxslim.recipes.recipe import apply_overrides
from onnxslim.recipes.sharing.request import ShareRequest
from onnxslim.recipes.sharing.stage import Form, Stage
from onnxslim.recipes.storage import CODES_OPSET, Storage
from onnxslim.runtime.client import Worker

__all__ = ["Work", "stages"]

_LEVELS_DB = tuple(float(level) for level in range(11, 64, 4))  # of noise that milder codebooks leave
_CHOICE_FEEDS = 16
_SAMPLES = 512  # that filters are fitted to
_PARTS = (1.0, 0.75, 0.5, 0.25, 0.1)  # of what was asked for
_TOLERANCES = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)
_MULTIPLE = 8  # of channels is kept, as kernels like it
_VECTORS: tuple[Literal[8, 4, 2], ...] = (8, 4, 2)  # values that one index stands for
_MOST = 256  # values of the table of a weight that few are too few for


@dataclass(frozen=True)
class Work:
    """What a stage needs: where models run, the data, what was asked for, and options of single passes."""

    worker: Worker
    parts: Parts
    held_out: Sequence[Mapping[str, Any]]
    request: ShareRequest
    overrides: Mapping[str, Mapping[str, Any]]
    progress: Callable[[str], None]

    @property
    def is_informed(self) -> bool:
        """Whether there are real inputs."""
        return not self.parts.fit.is_random

    def with_options(self, step: Pass) -> Any:
        """The pass with the options that were set by its name."""
        given = {name: options for name, options in self.overrides.items() if name == step.name}
        return apply_overrides((step,), given)[0]


Make = Callable[[Work, ir.Model], Stage]


def stages(request: ShareRequest) -> Iterator[Make]:
    """Those that were asked for, in their order."""
    if request.merge is not None:
        yield _merge
    if request.tolerance is not None:
        yield _similar
    if request.codebook is not None:
        yield _codebook


def _merge(work: Work, model: ir.Model) -> Stage:
    """Channels that others stand in for; in milder forms fewer of them."""
    request, channels = work.request, find_groups(model)
    goal = request.merge
    assert goal is not None
    chosen = criterion("merge" if request.into == "many" else "merge-pairs")
    plan = make_plan(
        work.worker,
        model,
        channels,
        [group for group in channels.groups if not is_block(group) and group.size > _MULTIPLE],
        chosen,
        feeds=held(work.parts.fit) if work.is_informed else None,
        held_out=work.held_out[:_CHOICE_FEEDS],
        allocation="error" if goal.kind == "error" else "sensitivity" if work.is_informed else "uniform",
        multiple=_MULTIPLE,
        seed=request.seed,
        progress=work.progress,
    )

    def merged(part: float) -> Form:
        amount = part * goal.target.value
        removal = plan.free(amount) if goal.kind == "error" else plan.share(amount)
        found = pruned(model, channels, removal, merges=chosen.merges, evidence=plan.evidence)
        gone = sum(len(atoms) * channels.by_key[key].channels for key, atoms in removal.items())
        found.outcome.declined += [
            Decline("merge-neurons", pin.value, pin.reason) for pin in channels.pins if not pin.interface
        ]
        return Form(found.outcome, f"{gone} of {channels.total} channels are merged into others")

    parts = _PARTS if request.drop is not None else _PARTS[:1]
    return Stage("merged neurons", [partial(merged, part) for part in parts])


def _similar(work: Work, model: ir.Model) -> Stage:
    """Tensors, rows and runs that are nearly equal; in milder forms only those that are nearer."""
    limit = work.request.tolerance
    assert limit is not None
    to: Literal["multiples", "equals"] = "multiples" if work.request.scaled else "equals"
    reference = _run(work, model)

    def errors(found: ir.Model) -> dict[str, float]:
        """Of each output the norm of the difference, relative to that of the output."""
        differences = [Difference() for _ in found.graph.outputs]
        for one, other in zip(reference, _run(work, found), strict=True):
            for difference, a, b in zip(differences, one, other, strict=True):
                difference.add(a, b)
        return {
            value.name or "": math.inf if each.mismatch else 10 ** (-each.sqnr_db / 20)
            for value, each in zip(found.graph.outputs, differences, strict=True)
        }

    def similar(tolerance: float) -> Form:
        merging = work.with_options(MergeSimilarWeights(tolerance=tolerance, to=to))
        outcome = run_steps(model, (merging,))
        worst = max(errors(outcome.model).values(), default=0.0)
        return Form(outcome, f"weights are off by {tolerance:.2g} at most, outputs by {worst:.2g}")

    return Stage(
        f"weights equal up to {limit:g}",
        [partial(similar, limit * factor) for factor in _TOLERANCES],
        accepts=lambda found: max(errors(found).values(), default=0.0) <= limit,
    )


def _run(work: Work, model: ir.Model) -> list[list[Any]]:
    with work.worker.load(model, optimize="all") as session:
        return [session.run(feed) for feed in work.held_out[:_CHOICE_FEEDS]]


def _codebook(work: Work, model: ir.Model) -> Stage:
    """All weights in tables of few values or vectors; in milder forms those that bring most noise have
    shorter vectors, and at last tables of many values."""
    request = work.request
    entries, vectors = request.codebook, request.vectors
    assert entries is not None
    head = (RaiseOpset(opset=CODES_OPSET),)
    base = run_steps(model, head).model
    data = work.parts.fit if work.is_informed else None
    fitted = moments_of(base, data, work.held_out[:_CHOICE_FEEDS])
    asked: Sequence[CodebookWeights | QuantizeVectors] = [
        QuantizeVectors(entries, length) for length in _VECTORS if length <= vectors
    ] or [CodebookWeights(entries)]
    few = [
        work.with_options(replace(each, min_sqnr_db=0.0, inputs=fitted.inputs, held_out=fitted.held_out))
        for each in asked
    ]
    if data is not None:
        few = fitted_books(base, held(data.spread(_SAMPLES)), few)
    many = CodebookWeights(_MOST, exclude=few[0].exclude)
    if vectors > 1:
        few = [_nearer(work, base, each) for each in (few if request.drop is not None else few[:1])]

    def made(steps: Sequence[Step], level: float | None) -> Form:
        outcome = run_steps(model, (*head, *steps))
        if level is None:
            return Form(outcome, "of every weight that gets smaller by it")
        return Form(outcome, f"{_listed(steps)}, for {level:g} dB at the outputs")

    forms = [partial(made, few[:1], None)]
    if request.drop is not None:
        storage = Storage(base, work.held_out[:_CHOICE_FEEDS], (*few, many), rest=(), levels=_LEVELS_DB)

        def milder(level: float) -> Form:
            return made(storage.steps(level), level)

        forms += [partial(milder, level) for level in _LEVELS_DB]
    name = f"codebook of {entries}"
    return Stage(name if vectors == 1 else f"{name} vectors of {vectors}", forms)


def _nearer(work: Work, model: ir.Model, vectors: QuantizeVectors) -> QuantizeVectors:
    """Vectors that were chosen by the inputs, or by the weights alone: what leaves less noise at the outputs.

    Each product is nearer with the former.  Where a few inputs are huge and hardly change, the model is not.
    """
    forms = [vectors]
    if vectors.inputs is not None:
        forms.append(replace(vectors, inputs=None, held_out=None, known={}))
    found = [replace(form, known=form.stored(model)) for form in forms]
    if len(found) == 1:
        return found[0]
    reference = _run(work, model)
    noises = [noise_to_signal(reference, _run(work, run_steps(model, (form,)).model)) for form in found]
    return found[int(np.argmin(noises))]


def _listed(steps: Sequence[Step]) -> str:
    """How many weights have which form."""
    found = []
    for step in steps:
        if isinstance(step, QuantizeVectors):
            found.append(f"{len(step.only)} weights have vectors of {step.vector}")
        elif isinstance(step, CodebookWeights):
            found.append(f"{len(step.only)} weights have {step.entries} values")
    return ", ".join(found)
