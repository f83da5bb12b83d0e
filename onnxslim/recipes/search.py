"""Try candidates, keep the best that pays: inside the accuracy budget, not larger, measured not slower.

Everything is judged against the original file on held-out feeds that no candidate was fitted to.  The test
data, which decide whether the winner may be used at all, are not seen here.
"""

from __future__ import annotations

import logging
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from onnxslim._ir import ir
from onnxslim.errors import OnnxSlimError, PassError
from onnxslim.measure.latency import Latency, measure_latency
from onnxslim.model.io import FileInfo, save
from onnxslim.passes.base import Decline
from onnxslim.recipes.budget import Target
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.engine import Outcome, Step, run_steps
from onnxslim.recipes.quality import Judge, Score
from onnxslim.recipes.recipe import apply_overrides, pass_names
from onnxslim.report.report import PassRecord
from onnxslim.report.text import counted

__all__ = ["NOT_TRIED", "Objective", "Progress", "Search", "Start", "Trial"]

NOT_TRIED = "not tried: --time was used up"
_log = logging.getLogger(__name__)

Objective = Literal["both", "latency", "bytes"]

# "Not slower" is promised as an interval that ends at 1.02.  What is accepted at the very limit would fail
# the next measurement half of the time, so a winner must stay clear of it.
_SAFE_END = 1.015
# Bytes cannot buy time: in time x bytes, a percent above the original's time weighs as ten.
_SLOWER_WEIGHT = 10
Progress = Callable[[str], None]
Refine = Callable[[Candidate, Callable[[ir.Model], bool]], Candidate | None]


@dataclass(eq=False)
class Start:
    """A model that candidates are tried on: the simplified one, or what was made of it.

    Attributes:
        name: for the report, in front of the names of the candidates; empty for the simplified model.
        outcome: the model, and how it came about.
        propose: makes the candidates.
        refine: makes a milder form of a candidate, the least mild that is accepted.
        notes, distillation: for the report, if the result comes of it.
    """

    name: str
    outcome: Outcome
    propose: Callable[[], Sequence[Candidate]]
    refine: Refine = lambda candidate, accepts: None
    notes: tuple[str, ...] = ()
    distillation: Mapping[str, Any] | None = None

    @cached_property
    def candidates(self) -> Sequence[Candidate]:
        """What to try, made once."""
        return self.propose()

    def titled(self, name: str) -> str:
        """The name of a candidate, with where it starts."""
        return f"{self.name}, {name}" if self.name else name


@dataclass
class Trial:
    """One candidate and what became of it; ``rejected`` is the reason, None while it is still in the race.

    ``latency`` is what was measured with each number of threads; ``confirmed``: at length.
    """

    name: str
    candidate: Candidate | None = None
    start: Start | None = None
    model: ir.Model | None = None
    file: FileInfo | None = None
    score: Score | None = None
    latency: tuple[Latency, ...] = ()
    rejected: str | None = None
    confirmed: bool = False
    applied: list[PassRecord] = field(default_factory=list)
    declined: list[Decline] = field(default_factory=list)

    @property
    def slowest(self) -> Latency | None:
        """The measurement with the largest ratio: a form must pay with every number of threads."""
        return max(self.latency, key=lambda measured: measured.ratio, default=None)

    def to_dict(self, original: FileInfo) -> dict[str, Any]:
        """The row of the report."""
        slowest = self.slowest
        row = {
            "name": self.name,
            "kept": False,
            "reason": self.rejected or "",
            "bytes_ratio": self.file.bytes / original.bytes if self.file else None,
            "nodes": self.file.nodes if self.file else None,
            "score": self.score.after if self.score else None,
            "sqnr_db": self.score.sqnr_db if self.score else None,
            "ratio": slowest.ratio if slowest else None,
            "interval": list(slowest.interval) if slowest else None,
        }
        if len(self.latency) > 1:
            row["scenarios"] = [
                {"threads": each.threads, "ratio": each.ratio, "interval": list(each.interval)}
                for each in self.latency
            ]
        return row


@dataclass
class Search:
    """Tries candidates against one original.

    Args:
        original: the file that everything is measured against.
        judge: scores a candidate on held-out feeds.
        folder: where candidates are written while they are tried.
        feeds: what latency is measured on.
        objective: what is minimised among those that pay: time x bytes, time, or bytes.
        latency, size: explicit targets; a candidate that misses one is rejected.
        threads: of the measured sessions: each candidate is measured with every number, must not be slower
            with any of them, and counts with the worst ratio, since nobody knows which a user will have.
        foreign: the candidates are for another machine, so that times of this one decide nothing.
        screen_s, final_s: seconds of measuring for a first look, and for the winner.
        deadline: ``time.monotonic()`` after which no further candidate is begun.
    """

    original: FileInfo
    judge: Judge
    folder: Path
    feeds: Sequence[Mapping[str, Any]]
    objective: Objective = "both"
    latency: Target | None = None
    size: Target | None = None
    threads: Sequence[int] = (1,)
    foreign: bool = False
    seed: int = 0
    screen_s: float = 4.0
    final_s: float = 12.0
    deadline: float = float("inf")
    progress: Progress = lambda message: None

    def explore(
        self, start: Start, overrides: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({})
    ) -> list[Trial]:
        """Try every candidate of a start; those that are not rejected are in the race.

        Args:
            overrides: options of the candidates' passes, ``{pass name: {option: value}}``.

        Raises:
            OptionError: no candidate has such a pass, or the pass no such option.
        """
        candidates = start.candidates
        apply_overrides([step for c in candidates for step in c.passes], overrides)  # each concerns one
        trials: list[Trial] = []
        for number, candidate in enumerate(candidates, 1):
            name = start.titled(candidate.name)
            if trials and time.monotonic() > self.deadline:
                trials.append(Trial(name, start=start, rejected=NOT_TRIED))
                continue
            self.progress(f"candidate {number} of {len(candidates)}: {name}")
            trials.append(self._try(start, candidate, _overridden(candidate.passes, overrides), trials))
        for refined in self._refined(start, list(trials)):
            trials.append(self._try(start, refined, _overridden(refined.passes, overrides), trials))
        return trials

    def choose(self, trials: Sequence[Trial]) -> Trial | None:
        """The best that surely pays; None where nothing does.

        Of each start the first that does is measured at length, so that starts are compared by more than a
        first look.
        """
        starts = dict.fromkeys(trial.start for trial in trials)
        firsts = (self._first([trial for trial in trials if trial.start is start]) for start in starts)
        return min(filter(None, firsts), key=self.cost, default=None)

    def _first(self, trials: Sequence[Trial]) -> Trial | None:
        for trial in sorted((t for t in trials if t.rejected is None), key=self.cost):
            self.progress(f"measuring {trial.name}")
            if trial.confirmed or self._confirm(trial):
                return trial
        return None

    def cost(self, trial: Trial) -> float:
        """What is minimised."""
        assert trial.slowest is not None and trial.file is not None
        size, ratio = trial.file.bytes / self.original.bytes, trial.slowest.ratio
        if self.foreign:
            return size
        both = size * (ratio if ratio <= 1 else ratio**_SLOWER_WEIGHT)
        return {"latency": ratio, "bytes": size}.get(self.objective, both)

    def admit(self, name: str, model: ir.Model) -> Trial:
        """Judge and measure a model that a later step made of the winner, as strictly as the winner."""
        trial = Trial(name, model=model)
        trial.file = save(model, self.folder / f"{len(list(self.folder.iterdir()))}.onnx")
        trial.rejected = self._reject_size(trial.file)
        if trial.rejected is None:
            trial.score = self.judge.score(model)
            trial.rejected = trial.score.rejected
        if trial.rejected is None:
            self._confirm(trial)
        return trial

    def _refined(self, start: Start, trials: Sequence[Trial]) -> Iterator[Candidate]:
        """A milder form of each kind of candidate that was too noisy, where nothing of the kind is left."""
        candidates = start.candidates
        for kind in reversed(list(dict.fromkeys(c.kind for c in candidates if c.essential))):
            pairs = [(c, t) for c, t in zip(candidates, trials, strict=True) if c.kind == kind]
            noisy = [c for c, t in pairs if t.score is not None and t.score.rejected is not None]
            if not noisy or any(t.rejected is None for _, t in pairs) or time.monotonic() > self.deadline:
                continue
            self.progress(f"looking for a milder form of: {start.titled(noisy[0].name)}")
            try:
                found = start.refine(noisy[0], lambda model: self.judge.score(model).rejected is None)
            except OnnxSlimError:
                _log.info("%s has no milder form", noisy[0].name, exc_info=True)
                continue
            if found is not None:
                yield found

    def _try(
        self, start: Start, candidate: Candidate, passes: Sequence[Step], earlier: Sequence[Trial]
    ) -> Trial:
        name = start.titled(candidate.name)
        trial = Trial(name, candidate, start)
        try:
            outcome = run_steps(start.outcome.model, passes)
            trial.model, trial.applied, trial.declined = outcome.model, outcome.applied, outcome.declined
            broken = [record for record in outcome.applied if record.rolled_back]
            if broken:
                trial.rejected = f"{broken[0].name} failed: {broken[0].rolled_back}"
                return trial
            effective = {record.name for record in outcome.applied if record.modified}
            if candidate.essential and candidate.essential not in effective:
                trial.rejected = f"{candidate.essential} found nothing that pays"
                why = Counter(d.reason for d in outcome.declined if d.pass_name == candidate.essential)
                if why:
                    trial.rejected += f": {why.most_common(1)[0][0]}"
                return trial
            path = self.folder / f"{len(list(self.folder.iterdir()))}.onnx"
            trial.file = save(outcome.model, path)
            twin = next((t for t in earlier if t.file and t.file.sha256 == trial.file.sha256), None)
            if twin is not None:  # candidates come most elaborate first: the simpler one gets the credit
                trial.score, trial.latency, trial.rejected = twin.score, twin.latency, twin.rejected
                twin.rejected = f"gives the same file as {name}"
                return trial
            trial.rejected = self._reject_size(trial.file)
            if trial.rejected is None:
                trial.score = self.judge.score(outcome.model)
                trial.rejected = trial.score.rejected
            if trial.rejected is None:
                trial.latency = self._measure(trial.file, self.screen_s)
                trial.rejected = self._reject_time(trial.latency, final=False)
        except OnnxSlimError as error:  # one candidate's trouble must not cost the others
            _log.info("candidate %s failed", name, exc_info=True)
            trial.rejected = f"failed: {error.what}"
            if isinstance(error, PassError):
                _log.warning("%s: %s", name, error.what)
        return trial

    def _measure(self, file: FileInfo, seconds: float) -> tuple[Latency, ...]:
        return tuple(
            measure_latency(
                self.original.path,
                file.path,
                feeds=self.feeds,
                threads=count,
                budget_s=seconds,
                seed=self.seed,
            )
            for count in self.threads
        )

    def _reject_size(self, file: FileInfo) -> str | None:
        if file.bytes > self.original.bytes:
            return f"larger than the original: {file.bytes} against {self.original.bytes} bytes"
        if self.size is not None and not self.size.met(file.bytes, self.original.bytes):
            return f"{file.bytes} bytes miss the target size"
        return None

    def _reject_time(self, found: Sequence[Latency], *, final: bool) -> str | None:
        """At a first look only what is surely slower goes; in the end it must surely not be slower."""
        for measured in () if self.foreign else found:
            reason = self._reject_one(measured, final=final)
            if reason is not None:
                count = f"with {counted(measured.threads, 'thread')} " if len(found) > 1 else ""
                return count + reason
        return None

    def _reject_one(self, measured: Latency, *, final: bool) -> str | None:
        low, high = measured.interval
        if final and not measured.reliable:
            return f"its time could not be measured: {measured.diagnosis[0]}"
        if measured.verdict == "slower" or (final and high > _SAFE_END):
            return f"slower, or not shown not to be: time ratio {measured.ratio:.2f} [{low:.2f}, {high:.2f}]"
        if final and self.latency is not None:
            if self.latency.kind == "ratio":
                met = measured.ratio <= self.latency.value
            else:
                met = measured.seconds_b <= self.latency.value
            if not met:
                return f"time ratio {measured.ratio:.2f} misses the target latency"
        return None

    def _confirm(self, trial: Trial) -> bool:
        """Measure longer; once more when the first answer is not conclusive."""
        assert trial.file is not None
        for seconds in (self.final_s, 2 * self.final_s):
            trial.latency = self._measure(trial.file, seconds)
            trial.rejected = self._reject_time(trial.latency, final=True)
            if trial.rejected is None:
                trial.confirmed = True
                return True
            if any(measured.verdict == "slower" for measured in trial.latency):
                break
        return False


def _overridden(passes: Sequence[Step], overrides: Mapping[str, Mapping[str, Any]]) -> Sequence[Step]:
    """The passes with the options that concern them."""
    names = pass_names(passes)
    own = {name: options for name, options in overrides.items() if name in names}
    return apply_overrides(passes, own)
