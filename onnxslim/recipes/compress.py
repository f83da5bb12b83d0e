"""``compress`` and ``quantize``: simplify, calibrate, try candidates, keep the best that pays, prove it.

Selection never sees the test data.  With ``test`` they are a source of their own, and a metric that is a
function brings its own; otherwise ``data`` is split 70/30 by the seed.  What remains is split again: one part
is calibrated on, the other judges the candidates.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.cost import summary
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.errors import BudgetError
from onnxslim.measure.metrics import MetricResult, is_function, resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import ModelLike, load, save
from onnxslim.passes.base import Promise
from onnxslim.passes.integer_io import IntegerIo
from onnxslim.passes.quantize_static import Activations
from onnxslim.recipes.budget import Drop, Target
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.candidates import UNCALIBRATED, candidates, parse_weights
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.evidence import encoding_notes, latency_fields, metric_fields
from onnxslim.recipes.milder import Milder
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.parts import open_data, split_data
from onnxslim.recipes.pipeline import Result, path_of, source_file
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.quality import Judge
from onnxslim.recipes.search import Objective, Progress, Search, Trial
from onnxslim.recipes.weight_forms import weight_forms
from onnxslim.report.report import Report
from onnxslim.report.text import counted
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.environment import environment
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import DEFAULT_TARGET
from onnxslim.runtime.targets.target import Target as Hardware

__all__ = ["Request", "search_best"]

_HELD_OUT_LIMIT = 64  # feeds that judge a candidate; more would cost more time than they teach
_LATENCY_FEEDS = 4
_CHOICE_FEEDS = 16  # held-out feeds that decide details of a candidate
_LOOKS = 2  # at a metric that is a function: only it knows its units
_CLEANER_DB, _MARGIN_DB = 10.0, 3.0  # what the second must have above the first, at least, and to be sure
_SECOND_LOOK = (
    "the first choice lost too much of the metric, which is in the list of what was tried; a cleaner one was "
    "scored in its place, so that the score is a little better than it would be on new data"
)
_UNCHANGED = "nothing improved the model inside the budget; it is returned unchanged"


@dataclass(frozen=True)
class Request:
    """What the user asked for, read and checked; see :func:`onnxslim.compress` for the meaning."""

    drop: Drop
    mode: str = "compress"
    weights: str = "int8"
    activations: Activations = ""
    metric: str | None = None
    output: str | None = None
    latency: Target | None = None
    size: Target | None = None
    objective: Objective = "both"
    seconds: float = 600.0
    threads: tuple[int, ...] = (1,)
    target: str | None = None
    verify_limit: int = 10**9
    seed: int = 0
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    integer_io: bool = False

    def __post_init__(self) -> None:
        parse_weights(self.weights)


def search_best(
    source: ModelLike,
    data: Any,
    request: Request,
    *,
    test: Any = None,
    calibration: Calibration | None = None,
    data_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda message: None,
) -> Result:
    """Find the best form of a model inside a budget; the original where none pays.

    Raises:
        CalibrationError: the data do not fit the model.
        BudgetError: an explicit target is not met.
    """
    begun = time.monotonic()
    original = load(source)
    with open_worker() as worker, tempfile.TemporaryDirectory(prefix="onnxslim-") as name:
        folder = Path(name)
        file = source_file(source, original) or save(original, folder / "original.onnx")
        progress("simplifying")
        prover = Prover(worker, limit_bytes=request.verify_limit, seed=request.seed)
        base = run_steps(original, simplify_steps(), prover)
        opened = open_data(worker, original, data, seed=request.seed, **(data_options or {}))
        parts = split_data(opened, test, original, seed=request.seed, own_test=is_function(request.metric))
        metric = resolve(
            request.metric or "agreement", original=original, feeds=parts.test, output=request.output
        )
        if calibration is None and (request.integer_io or request.mode not in UNCALIBRATED):
            progress("calibrating")
            calibration = calibrate(base.model, parts.fit)
        held_out = list(parts.held_out.spread(_HELD_OUT_LIMIT))
        labels = parts.held_out.spread(_HELD_OUT_LIMIT).labels
        chosen = load_target(request.target or DEFAULT_TARGET)
        unseen = is_function(request.metric)
        judge = Judge(worker, original, held_out, labels, request.drop, request.output, unseen=unseen)
        search = Search(
            file,
            judge,
            folder,
            held_out[:_LATENCY_FEEDS],
            request.objective,
            request.latency,
            request.size,
            request.threads,
            not chosen.is_cpu,
            request.seed,
            deadline=begun + request.seconds,
            progress=progress,
            refine=Milder(base.model, held_out),
        )
        options = candidates(
            base.model,
            calibration,
            target=request.target,
            mode=request.mode,
            weights=request.weights,
            activations=request.activations,
            data=None if parts.fit.is_random else parts.fit,
            feeds=held_out[:_CHOICE_FEEDS],
            integer_io=request.integer_io,
            threads=request.threads,
        )
        if request.mode == "compress":
            options.append(Candidate("simplified only", ()))
        before = metric.score(file.path)
        best, after, trials = None, before, list[Trial]()
        for look in range(_LOOKS if unseen else 1):
            best, found = search.run(base.model, options, request.overrides)
            for trial in found if look else ():
                trial.name += ", second look"
            trials += found
            if best is None:
                break
            assert best.file is not None and best.score is not None
            progress("scoring the result")
            after = metric.score(best.file.path)
            if request.drop.allows(before.value, after.value, before.resolution):
                break
            best.rejected = f"scored {after.value:.4f} on the test data, more than {request.drop} below"
            best.rejected += f" {before.value:.4f}"
            cleaner = _cleaner_db(before.value - after.value, request.drop, before)
            search = replace(search, judge=search.judge.stricter(best.score.sqnr_db + cleaner))
            best, after = None, before
        if best is None and (request.latency is not None or request.size is not None):
            tried = "; ".join(f"{trial.name}: {trial.rejected}" for trial in trials)
            raise BudgetError(
                f"no candidate meets the target: {tried}",
                hint="relax the target, --max-drop, or give more --data and --time",
            )
        notes = [*prover.notes, *parts.notes, *_about(chosen)]
        if request.drop.floor(before.value) > before.value - before.resolution:
            notes.append(
                f"{before.n} test samples cannot show a loss of {request.drop}; one of them is "
                f"{before.resolution:.3g}, and that much was allowed"
            )
        if search.judge is not judge:
            notes.append(_SECOND_LOOK)
        if best is None:
            notes.append(_UNCHANGED)
        report = Report(
            input=file,
            before=summary(original),
            environment=environment(),
            seeds={"data": request.seed},
            notes=tuple(notes),
            metric=metric_fields(metric.name, before, after),
            tried=tuple(t.to_dict(file) | _kept(t, t is best, base.model) for t in trials),
        )
        result = _finish(report, original, base, best, list(held_out), worker, path_of(source))
        if request.integer_io:
            progress("making inputs and outputs integers")
            return with_integer_io(result, Prover(worker, held_out, request.verify_limit, request.seed))
        return result


def _finish(
    report: Report,
    original: ir.Model,
    base: Outcome,
    best: Trial | None,
    feeds: list[Any],
    worker: Worker,
    path: Path | None,
) -> Result:
    if best is None:
        return Result(original, replace(report, after=report.before), path)
    assert best.model is not None
    checked = verify(original, best.model, feeds, promise=Promise.LOSSY, worker=worker)
    measured = [latency_fields(each, counted(each.threads, "thread")) for each in best.latency]
    report = replace(
        report,
        after=summary(best.model),
        passes=(*base.applied, *best.applied),
        declined=(*base.declined, *best.declined),
        verification=checked.to_dict(),
        latency=measured[0],
        scenarios=tuple(measured) if len(measured) > 1 else (),
    )
    return Result(best.model, report)


def with_integer_io(result: Result, prover: Prover) -> Result:
    """The result with integer inputs and outputs: a last step, proven bit by bit on integers of its own.

    All that was scored and measured before holds on: from the same numbers it computes the same numbers.
    """
    outcome = run_steps(result.model, (IntegerIo(),), prover)
    report = result.report
    if not any(record.modified for record in outcome.applied):
        notes = (*report.notes, "no input or output could become an integer one")
    else:
        notes = (*report.notes, *encoding_notes(outcome.model), *prover.notes)
        if prover.last is not None:
            count = prover.last.samples
            notes += (f"fed with integers it computes the same bits ({count} feed{'s' * (count != 1)})",)
        result = replace(result, model=outcome.model, unchanged=None)
    report = replace(
        report,
        after=summary(outcome.model),
        passes=(*report.passes, *outcome.applied),
        declined=(*report.declined, *outcome.declined),
        notes=notes,
    )
    return replace(result, report=report)


def _cleaner_db(lost: float, drop: Drop, before: MetricResult) -> float:
    """How much less noise the second choice must have: as the loss was too large, and a little more.

    A loss grows with the noise, or with its square: the former is assumed.
    """
    allowed = before.value - drop.floor(before.value, before.resolution)
    needed = 20 * math.log10(lost / allowed) if allowed > 0 else math.inf
    return max(needed + _MARGIN_DB, _CLEANER_DB)


def _about(target: Hardware) -> Iterator[str]:
    """What was not seen of a target."""
    if not target.is_cpu:
        yield (
            f"{target.name} was not run here: integers were placed by its rules alone, the outputs are those "
            "of the CPU, and its times decided nothing"
        )
    elif not target.measured:
        yield f"{target.name} was not measured: integers were placed by its rules alone"


def _kept(trial: Trial, kept: bool, model: ir.Model) -> dict[str, Any]:
    """What a report says of a trial in the end."""
    forms = weight_forms(model, trial.candidate) if kept and trial.candidate is not None else []
    return {"kept": kept} | ({"weights": forms} if forms else {})
