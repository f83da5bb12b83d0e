"""The candidates of one run of ``compress`` or ``quantize``: what is tried, what wins, what is said of it.

Candidates start from the simplified model and, with pruning, from pruned forms of it.  All are compared with
the original: its outputs, score, bytes and time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.errors import CalibrationError, OnnxSlimError
from onnxslim.measure.metrics import MetricResult
from onnxslim.measure.verify import verify
from onnxslim.passes.base import Decline, Promise
from onnxslim.recipes.budget import Drop
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.candidates import UNCALIBRATED, candidates
from onnxslim.recipes.depths import Depths
from onnxslim.recipes.engine import Outcome
from onnxslim.recipes.evidence import latency_fields, metric_fields
from onnxslim.recipes.milder import Milder
from onnxslim.recipes.opened import Opened
from onnxslim.recipes.pipeline import Result
from onnxslim.recipes.pruning.widths import sized
from onnxslim.recipes.quality import Judge
from onnxslim.recipes.request import Request
from onnxslim.recipes.search import NOT_TRIED, Progress, Search, Start, Trial
from onnxslim.recipes.sign_inputs import sign_inputs
from onnxslim.recipes.weight_forms import weight_forms
from onnxslim.report.report import Report
from onnxslim.report.text import counted
from onnxslim.runtime.environment import environment
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import DEFAULT_TARGET
from onnxslim.runtime.targets.target import Target as Hardware

__all__ = ["Contest"]

_log = logging.getLogger(__name__)

_HELD_OUT_LIMIT = 64  # feeds that judge a candidate; more would cost more time than they teach
_MANY_HELD_OUT = 256  # that judge what is pruned: there is more to lose, and little that is judged
_PRUNED_STARTS = 2
_LATENCY_FEEDS = 4
_CHOICE_FEEDS = 16  # held-out feeds that decide details of a candidate
_CLEANER_DB, _MARGIN_DB = 10.0, 3.0  # what the second must have above the first, at least, and to be sure
_BEATEN = "another one is better"
_SECOND_LOOK = (
    "the first choice lost too much of the metric, which is in the list of what was tried; a cleaner one was "
    "scored in its place, so that the score is a little better than it would be on new data"
)
_UNPRUNED_LOOK = (
    "what was pruned lost too much of the metric on the test data, which is in the list of what was tried; "
    "the best that was not pruned was scored in its place"
)
_UNCHANGED = "nothing improved the model inside the budget; it is returned unchanged"


class Contest:
    """The candidates of one run, from the simplified model and from pruned ones."""

    def __init__(
        self,
        run: Opened,
        request: Request,
        calibration: Calibration | None,
        progress: Progress,
        deadline: float,
    ) -> None:
        self.run, self.request, self.progress, self.deadline = run, request, progress, deadline
        self.feeds = list(run.parts.held_out.spread(_HELD_OUT_LIMIT))
        self.target = load_target(request.target or DEFAULT_TARGET)
        self.search = Search(
            run.file,
            self._judge(_HELD_OUT_LIMIT),
            run.folder,
            self.feeds[:_LATENCY_FEEDS],
            request.objective,
            request.latency,
            request.size,
            request.threads,
            not self.target.is_cpu,
            request.seed,
            deadline=deadline,
            progress=progress,
        )
        self.plain = self._start("", run.base, calibration)
        self.trials: list[Trial] = []
        self.notes: list[str] = []
        self.declined: list[Decline] = []  # of pruning
        if request.distill is not None and len(run.parts.fit) < 2:
            raise CalibrationError(
                "of one input nothing can be learned", hint="give more --data, or leave --distill out"
            )

    def _judge(self, most: int) -> Judge:
        run, request = self.run, self.request
        held_out = run.parts.held_out.spread(most)
        judge = Judge(
            run.worker,
            run.original,
            list(held_out),
            held_out.labels,
            request.drop,
            request.output,
            unseen=run.own_metric,
        )
        return judge.stricter(request.min_sqnr)

    def _start(self, name: str, outcome: Outcome, known: Calibration | None = None, **more: Any) -> Start:
        request, fit = self.request, self.run.parts.fit

        def propose() -> list[Candidate]:
            calibration = known
            if calibration is None and (request.integer_io or request.mode not in UNCALIBRATED):
                self.progress("calibrating")
                calibration = calibrate(outcome.model, fit)
            found = candidates(
                outcome.model,
                calibration,
                target=request.target,
                mode=request.mode,
                weights=request.weights,
                activations=request.activations,
                data=None if fit.is_random else fit,
                feeds=self.feeds[:_CHOICE_FEEDS],
                integer_io=request.integer_io,
                threads=request.threads,
            )
            if request.mode == "compress":
                found.append(Candidate("nothing more" if name else "simplified only", ()))
            return found

        return Start(name, outcome, propose, Milder(outcome.model, self.feeds), **more)

    def explore(self) -> None:
        """Try everything; with pruning, half of the time is for what is not pruned."""
        end = self.deadline
        if self.request.prune:
            self.search.deadline = (time.monotonic() + end) / 2
        self.trials += self.search.explore(self.plain, self.request.overrides)
        if self.request.prune:
            self._explore_pruned(end)

    def _explore_pruned(self, end: float) -> None:
        """Try pruned models, the deepest first, until something that came of two is in the race.

        The deepest need not be the best: few channels may be too few for integers to pay.
        """
        request, judge = self.request, self._judge(_MANY_HELD_OUT)
        left = max(end - time.monotonic(), 0.0)
        depths = Depths(self.run, judge, request.drop, left, request.distill, self.progress)
        found = depths.found()
        self.trials += depths.tried
        self.declined += depths.declined
        search = replace(self.search, judge=judge, deadline=end)
        racing = 0
        for number, depth in enumerate(found):
            start = self._start(depth.name, depth.outcome, notes=depth.notes, distillation=depth.distillation)
            if number and time.monotonic() > end:
                self.trials.append(Trial(start.name, rejected=NOT_TRIED))
                continue
            try:
                trials = search.explore(start)
            except OnnxSlimError as error:  # pruning's trouble must not cost the rest
                _log.info("%s was not compressed", start.name, exc_info=True)
                trials = [Trial(start.name, rejected=f"failed: {error.what}")]
            self.trials += trials
            racing += any(trial.rejected is None for trial in trials)
            if racing == _PRUNED_STARTS:
                return

    def winner(self, before: MetricResult) -> tuple[Trial | None, MetricResult]:
        """The best that keeps the score of the test data, which is looked at once, and what it scored.

        Once more where what was pruned loses too much: then it is as if nothing had been pruned.  And once
        more, with a cleaner form, where the metric is a function, whose units nobody else knows.
        """
        drop, looking = self.request.drop, self.trials
        cleaner, after = self.run.own_metric, before
        while (best := self.search.choose(looking)) is not None:
            assert best.file is not None and best.score is not None
            self.progress("scoring the result")
            after = self.run.metric.score(best.file.path)
            if drop.allows(before.value, after.value, before.resolution):
                break
            best.rejected = f"scored {after.value:.4f} on the test data, more than {drop} below"
            best.rejected += f" {before.value:.4f}"
            lost, after = before.value - after.value, before
            if best.start is not self.plain:
                looking = [trial for trial in looking if trial.start is self.plain]
                self.notes.append(_UNPRUNED_LOOK)
            elif cleaner:
                needed = best.score.sqnr_db + _cleaner_db(lost, drop, before)
                judge = self.search.judge.stricter(needed)
                self.search = replace(self.search, judge=judge, deadline=self.deadline)
                looking, cleaner = self.search.explore(self.plain, self.request.overrides), False
                for trial in looking:
                    trial.name += ", second look"
                self.trials += looking
                self.notes.append(_SECOND_LOOK)
            else:
                best = None
                break
        for other in self.trials:
            if other is not best and other.rejected is None:
                other.rejected = _BEATEN
        return best, after

    def with_signs(
        self, best: Trial, before: MetricResult, after: MetricResult
    ) -> tuple[Trial, MetricResult]:
        """The winner with signs in front of some products, and its score; unless the test data refuse."""
        assert best.model is not None
        run, drop = self.run, self.request.drop
        found = sign_inputs(best.model, run.parts.fit, self.search, run.worker, self.feeds)
        self.notes += found.notes
        best.declined = [*best.declined, *found.outcome.declined]
        trial = found.trial
        if trial is None:
            return best, after
        self.trials.append(trial)
        assert trial.file is not None
        score = run.metric.score(trial.file.path)
        if not drop.allows(before.value, score.value, before.resolution):
            trial.rejected = f"scored {score.value:.4f} on the test data, more than {drop} below"
            trial.rejected += f" {before.value:.4f}"
            self.notes[-1] = f"{trial.name}: none, for the model {trial.rejected}"
            return best, after
        trial.start, trial.candidate, best.rejected = best.start, best.candidate, _BEATEN
        trial.applied, trial.declined = [*best.applied, *found.outcome.applied], best.declined
        return trial, score

    def result(
        self, best: Trial | None, before: MetricResult, after: MetricResult, path: Path | None
    ) -> Result:
        """The winner, or the original, with the report."""
        run, request, feed = self.run, self.request, self.feeds[0]
        notes = [*run.prover.notes, *run.parts.notes, *_about(self.target)]
        if request.drop.floor(before.value) > before.value - before.resolution:
            notes.append(
                f"{before.n} test samples cannot show a loss of {request.drop}; one of them is "
                f"{before.resolution:.3g}, and that much was allowed"
            )
        notes += self.notes
        if request.prune:
            notes += self._about_pruning(best)
        if best is None:
            notes.append(_UNCHANGED)
        size = sized(run.original, feed)
        report = Report(
            input=run.file,
            before=size,
            after=size,
            environment=environment(),
            seeds={"data": request.seed},
            notes=tuple(notes),
            metric=metric_fields(run.metric.name, before, after),
            declined=tuple(self.declined),
            tried=tuple(t.to_dict(run.file) | _kept(t, t is best) for t in self.trials),
        )
        if best is None:
            return Result(run.original, report, path)
        assert best.model is not None and best.start is not None
        measured = [latency_fields(each, counted(each.threads, "thread")) for each in best.latency]
        outcome = best.start.outcome
        apart = self.declined if best.start is self.plain else ()
        checked = verify(run.original, best.model, self.feeds, promise=Promise.LOSSY, worker=run.worker)
        report = replace(
            report,
            after=sized(best.model, feed),
            passes=(*outcome.applied, *best.applied),
            declined=(*outcome.declined, *best.declined, *apart),
            verification=checked.to_dict(),
            latency=measured[0],
            scenarios=tuple(measured) if len(measured) > 1 else (),
            distillation=best.start.distillation,
        )
        return Result(best.model, report)

    def _about_pruning(self, best: Trial | None) -> Iterator[str]:
        """What pruning gave, or why there is nothing of it in the result."""
        if best is not None and best.start is not None and best.start is not self.plain:
            judged = min(len(self.run.parts.held_out), _MANY_HELD_OUT)
            yield (
                f"{best.start.name}, as deep as half of what may be lost allows on {judged} inputs that "
                "nothing was fitted to"
            )
            yield from best.start.notes
            return
        own = [trial for trial in self.trials if trial.start is not self.plain]
        beaten = [trial for trial in own if trial.rejected == _BEATEN and best is not None]
        for near in sorted(beaten, key=self.search.cost)[:1]:
            assert near.file is not None and near.slowest is not None
            size, took = near.file.bytes / self.run.file.bytes, near.slowest.ratio
            yield f"pruning did not pay: {near.name} has {size:.3f} of the bytes, {took:.3f} of the time"
        if own and not beaten:
            scored = [trial for trial in own if trial.confirmed and trial.rejected != _BEATEN]
            last = (scored or own)[-1]
            yield f"nothing that was pruned is in the result: {last.name}: {last.rejected}"


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


def _kept(trial: Trial, kept: bool) -> dict[str, Any]:
    """What a report says of a trial in the end."""
    if not kept or trial.candidate is None or trial.start is None:
        return {"kept": kept}
    forms = weight_forms(trial.start.outcome.model, trial.candidate)
    return {"kept": kept} | ({"weights": forms} if forms else {})
