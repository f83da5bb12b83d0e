"""Run passes in order, verify what they promise, and take back the pass that broke its promise.

The steps are passes, :class:`Repeat` groups that run until nothing changes, and :class:`Deferred` passes.
Consecutive steps that promise equality are verified once, at their end, against the model that went in; when
that fails, the first application of a pass after which the outputs differ is found by bisection, its pass is
left out and named in the report, and the rest runs again.  Lossy steps are bound by a budget, which is the
business of :mod:`onnxslim.recipes.search`; here their effect is only measured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxslim._ir import ir
from onnxslim.analysis.facts import forget_facts, sharing_facts
from onnxslim.errors import ModelError, OnnxSlimError, PassError, VerificationError
from onnxslim.model import edit
from onnxslim.model.check import check
from onnxslim.passes.base import Decline, Pass, Promise, collect_declines
from onnxslim.report.report import PassRecord

__all__ = ["Deferred", "Outcome", "Repeat", "Step", "Verifier", "run_steps"]

_log = logging.getLogger(__name__)

# Judges a rewritten model against the one that went in: None when the promise holds, else what differs.
Verifier = Callable[[ir.Model, ir.Model, Promise], "str | None"]


@dataclass(frozen=True)
class Repeat:
    """Passes that run in turn until a whole round changes nothing.

    Raises (when run):
        PassError: when ``max_rounds`` rounds did not suffice; the message names the passes still at work.
    """

    passes: tuple[Pass, ...]
    max_rounds: int = 30


@dataclass(frozen=True)
class Deferred:
    """A lossy pass that is built when its turn comes, from the model as it is then (calibration needs it)."""

    name: str
    build: Callable[[ir.Model], Pass]


Step = Pass | Repeat | Deferred


@dataclass(slots=True)
class Outcome:
    """The rewritten model, what each pass did, what was declined, and the weakest promise that was used."""

    model: ir.Model
    applied: list[PassRecord] = field(default_factory=list)
    declined: list[Decline] = field(default_factory=list)
    promise: Promise = Promise.EXACT

    def then(self, other: Outcome) -> Outcome:
        """This, and what was done to its model afterwards."""
        weakest = Promise.weakest([self.promise, other.promise])
        applied, declined = [*self.applied, *other.applied], [*self.declined, *other.declined]
        return Outcome(other.model, applied, declined, weakest)


class _BrokenPassError(Exception):
    """A pass raised; carries the pass so that the run can start again without it."""

    def __init__(self, culprit: Pass, reason: str) -> None:
        super().__init__(reason)
        self.culprit = culprit
        self.reason = reason


def run_steps(model: ir.Model, steps: Sequence[Step], verifier: Verifier | None = None) -> Outcome:
    """Rewrite a copy of ``model``; the caller's object stays as it is.

    Args:
        model: what to rewrite.
        steps: passes, :class:`Repeat` groups and :class:`Deferred` passes, in order.
        verifier: how equality is judged; None leaves the result unverified.

    Raises:
        PassError: a ``Repeat`` group does not converge.
        VerificationError: the outputs differ although no pass is left to take back.
    """
    outcome = Outcome(model)
    for segment, lossy in _segments(steps):
        built = [step.build(outcome.model) if isinstance(step, Deferred) else step for step in segment]
        outcome.model = _run_segment(outcome.model, built, None if lossy else verifier, outcome)
    return outcome


def _flatten(steps: Sequence[Pass | Repeat]) -> Iterator[Pass]:
    for step in steps:
        yield from step.passes if isinstance(step, Repeat) else (step,)


def _segments(steps: Sequence[Step]) -> Iterator[tuple[list[Step], bool]]:
    """Cut into runs of steps that promise equality and runs of lossy ones; a deferred step starts its own."""
    segment: list[Step] = []
    lossy = False
    for step in steps:
        if isinstance(step, Deferred):
            if segment:
                yield segment, lossy
            segment, lossy = [step], True
            continue
        step_lossy = any(p.promise is Promise.LOSSY for p in _flatten([step]))
        if segment and step_lossy != lossy:
            yield segment, lossy
            segment = []
        segment.append(step)
        lossy = step_lossy
    if segment:
        yield segment, lossy


def _run_segment(
    original: ir.Model, steps: list[Pass | Repeat], verifier: Verifier | None, outcome: Outcome
) -> ir.Model:
    """Apply ``steps``; leave out, one by one, passes that raise or whose outputs differ."""
    excluded: dict[int, str] = {}
    while True:
        # made anew: what an earlier attempt did does not count
        ledger = _Ledger(original, _flatten(steps), excluded)
        try:
            with collect_declines() as log, sharing_facts():
                model, events = _apply(original, steps, excluded, ledger)
        except _BrokenPassError as broken:
            excluded[id(broken.culprit)] = broken.reason
            continue
        promise = Promise.weakest([p.promise for p in events])
        difference = _difference(original, model, promise, verifier) if events else None
        if difference is None:
            outcome.applied += ledger.records.values()
            outcome.declined += log.entries
            outcome.promise = Promise.weakest([outcome.promise, promise])
            return model
        culprit = _bisect(original, steps, excluded, events, verifier)
        if culprit is None:
            raise VerificationError(
                f"the model differs from the original although every pass was taken back: {difference}",
                hint="the model may not be deterministic; --no-verify skips this check",
            )
        _log.warning("rolled back %s: %s", culprit.name, difference)
        excluded[id(culprit)] = difference


def _apply(
    original: ir.Model,
    steps: list[Pass | Repeat],
    excluded: dict[int, str],
    ledger: _Ledger | None = None,
    stop_after: int | None = None,
) -> tuple[ir.Model, list[Pass]]:
    """Run ``steps`` on a copy; returns it with the passes that changed it, one entry per application."""
    model = edit.copy_of(original)
    events: list[Pass] = []

    def run(p: Pass) -> bool:
        if id(p) in excluded or (stop_after is not None and len(events) >= stop_after):
            return False
        if not _run_pass(p, model, ledger):
            return False
        forget_facts(model)
        events.append(p)
        return True

    for step in steps:
        if isinstance(step, Pass):
            run(step)
            continue
        # A pass need not run again before another one has changed something since it last found nothing.
        clean: set[int] = set()
        for _ in range(step.max_rounds):
            for p in step.passes:
                if id(p) in clean:
                    continue
                if run(p):
                    clean.clear()
                else:
                    clean.add(id(p))
            if len(clean) == len(step.passes):
                break
        else:
            busy = ", ".join(p.name for p in step.passes if id(p) not in clean)
            raise PassError(
                f"the passes did not settle within {step.max_rounds} rounds; still at work: {busy}",
                hint="leave one of them out, and please report this model",
            )
    return model, events


def _run_pass(p: Pass, model: ir.Model, ledger: _Ledger | None) -> bool:
    start = time.perf_counter()
    try:
        modified = p(model).modified
    except OnnxSlimError as error:
        if not isinstance(error, PassError):
            raise  # bad options, data or resources are for the user to mend
        raise _BrokenPassError(p, str(error)) from error
    except Exception as error:  # a pass may come from a third party: its failure must not end the run
        _log.exception("%s raised; it is left out", p.name)
        raise _BrokenPassError(p, f"raised {type(error).__name__}: {error}") from error
    if ledger is not None:
        ledger.note(p, model if modified else None, time.perf_counter() - start)
    return modified


class _Ledger:
    """What each pass has done, summed over its applications; the model is only measured when it changed."""

    def __init__(self, model: ir.Model, passes: Iterable[Pass], excluded: Mapping[int, str]) -> None:
        self.records = {
            id(p): PassRecord(p.name, p.promise.value, rolled_back=excluded.get(id(p))) for p in passes
        }
        self._nodes, self._weights = _size(model)

    def note(self, p: Pass, changed: ir.Model | None, seconds: float) -> None:
        """Add one application of ``p``, and the model if it was changed."""
        nodes, weights = self._nodes, self._weights
        if changed is not None:
            self._nodes, self._weights = _size(changed)
        record = self.records[id(p)]
        self.records[id(p)] = replace(
            record,
            modified=record.modified or changed is not None,
            seconds=record.seconds + seconds,
            nodes_removed=record.nodes_removed + nodes - self._nodes,
            weight_bytes_removed=record.weight_bytes_removed + weights - self._weights,
        )


def _size(model: ir.Model) -> tuple[int, int]:
    """Nodes (functions included) and bytes of initializers."""
    nodes = weights = 0
    for scope in edit.scopes(model):
        nodes += len(scope)
        for value in scope.initializers.values() if isinstance(scope, ir.Graph) else ():
            if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
                weights += value.const_value.nbytes
    return nodes, weights


def _difference(
    original: ir.Model, model: ir.Model, promise: Promise, verifier: Verifier | None
) -> str | None:
    """What is wrong with the rewritten model: its structure, or what the verifier says."""
    try:
        check(model)
    except ModelError as error:
        return f"the graph is broken: {error.what}"
    return None if verifier is None else verifier(original, model, promise)


def _bisect(
    original: ir.Model,
    steps: list[Pass | Repeat],
    excluded: dict[int, str],
    events: list[Pass],
    verifier: Verifier | None,
) -> Pass | None:
    """The pass whose application first makes the outputs differ; None when the bare copy already does."""

    def differs(count: int) -> bool:
        with sharing_facts():
            model, _ = _apply(original, steps, excluded, stop_after=count)
        promise = Promise.weakest([p.promise for p in events[:count]])
        return _difference(original, model, promise, verifier) is not None

    if differs(0):
        return None
    low, high = 0, len(events)  # equal after `low` applications, different after `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if differs(middle) else (middle, high)
    return events[high - 1]
