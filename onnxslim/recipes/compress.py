"""``compress`` and ``quantize``: simplify, calibrate, try candidates, keep the best that pays, prove it.

Selection never sees the test data.  With ``test`` they are a source of their own, and a metric that is a
function brings its own; otherwise ``data`` is split 70/30 by the seed.  What remains is split again: one part
is calibrated on, the other judges the candidates.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.cost import summary
from onnxslim.calibration.data import Feeds, open_feeds
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.errors import BudgetError, CalibrationError
from onnxslim.measure.metrics import resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import ModelLike, load, save
from onnxslim.passes.base import Promise
from onnxslim.passes.integer_io import IntegerIo
from onnxslim.passes.quantize_static import Activations
from onnxslim.recipes.budget import Drop, Target
from onnxslim.recipes.candidates import UNCALIBRATED, Candidate, candidates
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.evidence import encoding_notes, latency_fields
from onnxslim.recipes.milder import Milder
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.pipeline import Result, path_of, source_file
from onnxslim.recipes.proof import Prover, running_feeds
from onnxslim.recipes.quality import Judge
from onnxslim.recipes.search import Objective, Progress, Search, Trial
from onnxslim.report.report import Report
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.environment import environment
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import DEFAULT_TARGET
from onnxslim.runtime.targets.target import Target as Hardware

__all__ = ["Request", "search_best"]

_HELD_OUT_LIMIT = 64  # feeds that judge a candidate; more would cost more time than they teach
_LATENCY_FEEDS = 4
_CHOICE_FEEDS = 16  # held-out feeds that decide details of a candidate
_RANDOM_SAMPLES = 32
_RANDOM = "the data were random: ranges and accuracy say little about real inputs"
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
    threads: int = 1
    target: str | None = None
    verify_limit: int = 10**9
    seed: int = 0
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    integer_io: bool = False


@dataclass(frozen=True)
class _Data:
    """The parts of the data: to fit on, to judge candidates on, to score the winner on."""

    fit: Feeds
    held_out: Feeds
    test: Feeds | None
    notes: tuple[str, ...] = ()


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
        opened = _open(data, request, original, dict(data_options or {}), worker)
        parts = _split(opened, test, request, original)
        metric = resolve(
            request.metric or "agreement", original=original, feeds=parts.test, output=request.output
        )
        if calibration is None and (request.integer_io or request.mode not in UNCALIBRATED):
            progress("calibrating")
            calibration = calibrate(base.model, parts.fit)
        held_out = list(parts.held_out.spread(_HELD_OUT_LIMIT))
        labels = parts.held_out.spread(_HELD_OUT_LIMIT).labels
        chosen = load_target(request.target or DEFAULT_TARGET)
        search = Search(
            file,
            Judge(
                worker,
                original,
                held_out,
                labels,
                request.drop,
                request.output,
                unseen=_is_function(request.metric),
            ),
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
        )
        if request.mode == "compress":
            options.append(Candidate("simplified only", ()))
        best, trials = search.run(base.model, options, request.overrides)
        progress("scoring the result")
        before = metric.score(file.path)
        after = before
        if best is not None:
            assert best.file is not None
            after = metric.score(best.file.path)
            if not request.drop.allows(before.value, after.value, before.resolution):
                best.rejected = f"scored {after.value:.4f} on the test data, more than {request.drop} below"
                best.rejected += f" {before.value:.4f}"
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
        if best is None:
            notes.append(_UNCHANGED)
        report = Report(
            input=file,
            before=summary(original),
            environment=environment(),
            seeds={"data": request.seed},
            notes=tuple(notes),
            metric={"name": metric.name, "before": before.value, "after": after.value, "n": after.n}
            | {"interval": after.interval},
            tried=tuple(t.to_dict(file) | {"kept": t is best} for t in trials),
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
    assert best.model is not None and best.latency is not None
    checked = verify(original, best.model, feeds, promise=Promise.LOSSY, worker=worker)
    report = replace(
        report,
        after=summary(best.model),
        passes=(*base.applied, *best.applied),
        declined=(*base.declined, *best.declined),
        verification=checked.to_dict(),
        latency=latency_fields(best.latency),
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


def _about(target: Hardware) -> Iterator[str]:
    """What was not seen of a target."""
    if not target.is_cpu:
        yield (
            f"{target.name} was not run here: integers were placed by its rules alone, the outputs are those "
            "of the CPU, and its times decided nothing"
        )
    elif not target.measured:
        yield f"{target.name} was not measured: integers were placed by its rules alone"


def _is_function(metric: str | None) -> bool:
    return metric is not None and ":" in metric


def _open(data: Any, request: Request, model: ir.Model, options: dict[str, Any], worker: Worker) -> Feeds:
    if not (isinstance(data, str) and data == "random"):
        return open_feeds(data, model, seed=request.seed, **options)
    samples = options.get("samples") or _RANDOM_SAMPLES
    with worker.load(model, optimize="none") as session:  # free dimensions are sized so that it runs
        return running_feeds(session, session.inputs, samples, request.seed)


def _split(feeds: Feeds, test: Any, request: Request, model: ir.Model) -> _Data:
    tested: Feeds | None = None
    if test is not None:
        tested = open_feeds(test, model, seed=request.seed)
    elif not _is_function(request.metric):
        if len(feeds) < 4:
            raise CalibrationError(
                f"{len(feeds)} feeds are too few to calibrate, select and test on",
                hint="give at least 4 feeds, better 32 or more",
            )
        feeds, tested = feeds.split(0.7, request.seed)
    fit, held_out = feeds.split(0.7, request.seed + 1)
    notes = (*feeds.notes, _RANDOM) if feeds.is_random else feeds.notes
    return _Data(fit, held_out, tested, notes)
