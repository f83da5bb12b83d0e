"""Training: steps, looks at held-out samples, and what becomes of the best weights that were seen.

The weights that are kept are those with the least loss on held-out samples among all that agree with the
teacher at least as often as the student did at first; the first ones are among them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.distillation.engine import SESSIONS, Engine
from onnxslim.distillation.forms import Coded
from onnxslim.distillation.judge import Judge, Look
from onnxslim.distillation.losses import LABELS, shares, target_name, target_of
from onnxslim.distillation.optimizer import Optimizer, OptimizerName, clip, global_norm, schedule
from onnxslim.distillation.samples import Batch, Pool
from onnxslim.distillation.sums import Summed

__all__ = ["Kept", "Settings", "State", "Trainer"]

Array = npt.NDArray[Any]

_USUAL = 1e-3  # rate: where there is no time to try others
_FURTHER = (1e-5, 3e-5, 1e-4, 3e-4, _USUAL, 3e-3, 1e-2, 3e-2)  # from the usual one on as they get better
_TRIALS = 4  # of them, most often
_TRIAL = 0.06  # of all steps go into the trial of one rate
_MEAN_RATE = 0.5  # of a training, as a share of the largest
_FEWEST, _MOST = 12, 100  # steps of a trial
_LARGER = 3.0  # at most, is the rate than the best of a trial: few steps like smaller ones than many do
_WARM_UP = 0.03
_LOOKS = 24  # at the held-out samples, from the beginning to the end
_PATIENCE = 16  # looks without a better one
_LONGEST = 5.0  # of a gradient, in lengths of those before it (their running mean)
_ROLLBACKS = 5
_TIMED = 6  # steps by which the time of one is told
_OVERHEAD = 1.1  # looks and the rest
_BUILDING = 0.5  # of the time, at most, that is set aside for sessions
_LATE = 1.3  # of the time that was given: then it ends, whatever was planned


@dataclass(frozen=True)
class Settings:
    """How long and how to train.

    Attributes:
        steps: None leaves it to ``seconds``.
        rate: of learning; None tries a few.
        labels: how much labels weigh, where they are learned.
    """

    steps: int | None = None
    seconds: float = 300.0
    optimizer: OptimizerName = "adam"
    rate: float | None = None
    seed: int = 0
    labels: float = 1.0


@dataclass
class State:
    """All that a run needs to go on.

    Attributes:
        steps: in all.
        step: that comes next.
        rate: of learning.
        length: running mean of the lengths of gradients.
        best: parameters with the least loss so far, by the name of the weight and of the parameter.
        looks: at the held-out samples, the first one before any step.
        blocks: what was done in each, where one is trained after the other.
    """

    steps: int
    rate: float
    step: int = 0
    length: float = 0.0
    rollbacks: int = 0
    best: dict[str, Array] = field(default_factory=dict)
    best_look: Look | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    losses: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    blocks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def waited(self) -> int:
        """Looks since the least loss of all that training has come to.

        The start does not count: from one that was fitted in closed form, learning first leads upwards.
        """
        losses = [look.loss if math.isfinite(look.loss) else math.inf for look in self.looks[1:]]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0


@dataclass(frozen=True)
class Kept:
    """What a run needs to be continued: its state, and its parameters at that moment."""

    state: State
    parameters: Mapping[str, Array]


@dataclass
class Trainer:
    """Trains the student of an engine.

    Args:
        pool: samples to train on.
        judge: what looks at the held-out ones.
        labels: of the samples of the pool, where there are some.
        progress: told in words how far it is.
        keep: told of the state and the parameters after each look.
        caching: remember what the teacher says of samples that are not varied.
    """

    engine: Engine
    pool: Pool
    judge: Judge
    settings: Settings
    labels: Sequence[Array] | None = None
    progress: Callable[[str], None] = lambda message: None
    keep: Callable[[State, Mapping[str, Array]], None] = lambda state, parameters: None
    caching: bool = True
    _cached: dict[int, dict[str, Array]] = field(default_factory=dict)

    def prepare(self) -> Look:
        """Weigh the terms of the loss by what the student has at first."""
        self.engine.variances.update(self.judge.variances)
        first = self.judge.look(self.engine, 0)
        self.engine.weights.update(shares(self.engine.terms, first.terms, self.settings.labels))
        return self.weighed(first)

    def begin(self, first: Look) -> State:
        """The state before the first step, with a number of steps and a rate that suit."""
        settings, steps = self.settings, self.settings.steps
        if steps is None:
            self.progress("timing a step")
            room = self._room(settings.seconds)
            trials = min(_TRIAL * _TRIALS * room, _MOST * _TRIALS) if settings.rate is None else 0
            steps = max(int(room - trials), 1)
        rates: dict[float, float] = {}
        trial = min(max(int(_TRIAL * steps), _FEWEST), _MOST)
        if settings.rate is None and steps >= 2 * _FEWEST * _TRIALS:
            rates = self._rates(trial, self._least_rate(steps))
        chosen = settings.rate or _USUAL
        if rates:
            chosen = min(rates, key=lambda rate: rates[rate]) * min(math.sqrt(steps / trial), _LARGER)
        told = {f"{rate:g}": loss for rate, loss in rates.items()}
        state = State(steps, chosen, rates=told, looks=[first], best_look=first, best=self.copy())
        state.optimizer.name = settings.optimizer
        return state

    def run(self, state: State) -> State:
        """Train to the end; the student then holds the best weights."""
        every = max(state.steps // _LOOKS, 1)
        begun = time.monotonic()
        while state.step < state.steps and state.waited < _PATIENCE:
            loss = self._advance(state, state.steps)
            if not math.isfinite(loss):
                state.rollbacks += 1
                if state.rollbacks > _ROLLBACKS:
                    break
                self.restore(state.best)
                state.optimizer, state.rate = Optimizer(self.settings.optimizer), state.rate / 2
                state.length = 0.0
            state.losses.append(loss)
            state.step += 1
            late = self.settings.steps is None and time.monotonic() - begun > _LATE * self.settings.seconds
            if state.step % every == 0 or state.step == state.steps or late:
                self.look(state)
                self.keep(state, self.parameters())
            if late:
                break
        self.restore(state.best)
        return state

    def look(self, state: State) -> None:
        """Look at the held-out samples, and keep the parameters if they are the best so far."""
        look = self.weighed(self.judge.look(self.engine, state.step))
        state.looks.append(look)
        assert state.best_look is not None
        if look.agreement >= state.looks[0].agreement and look.loss < state.best_look.loss:
            state.best, state.best_look = self.copy(), look
        words = f"step {state.step} of {state.steps}: loss {look.loss:.4g}, agreement {look.agreement:.4f}"
        self.progress(f"distilling, {words}")

    def _advance(self, state: State, steps: int) -> float:
        """One step; the loss, not finite where the weights were left as they were."""
        batch = self.pool.batch(state.step)
        weights = {name: form.value() for name, form in self.engine.student.forms.items()}
        loss, gradients = self.engine.step(batch.feed, self._targets(batch), weights)
        if not math.isfinite(loss):
            return math.nan
        pulled: dict[str, Array] = {}
        parameters: dict[str, Array] = {}
        for name, gradient in gradients.items():
            form = self.engine.student.forms[name]
            for part, own in form.pull(gradient).items():
                pulled[f"{name}/{part}"] = own
                parameters[f"{name}/{part}"] = form.parameters[part]
        norm = global_norm(pulled)
        if not math.isfinite(norm):
            return math.nan
        if state.length:
            pulled = clip(pulled, _LONGEST * state.length, norm)
        longest = min(norm, _LONGEST * state.length) if state.length else norm
        state.length = 0.9 * state.length + 0.1 * longest if state.length else norm
        warm_up = max(int(_WARM_UP * steps), 1)
        rate = state.rate * schedule(state.step, steps, warm_up)
        state.optimizer.update(parameters, pulled, rate)
        return loss

    def _targets(self, batch: Batch) -> dict[str, Array]:
        if batch.varied or not self.caching:
            found = self.engine.other.run(batch.feed)
        else:
            for index in batch.indices:
                if index not in self._cached:
                    self._cached[index] = self.engine.other.run(self.pool.feeds[index])
            each = [self._cached[index] for index in batch.indices]
            found = (
                each[0]
                if len(each) == 1
                else {name: np.concatenate([values[name] for values in each]) for name in each[0]}
            )
        targets: dict[str, Array] = {}
        if self.labels is not None:
            targets[target_of(LABELS)] = _labels(self.labels, batch.indices)
        for term in self.engine.terms:
            if term.kind not in ("cross-entropy", "own"):
                targets[target_name(term)] = found[term.target]
        own = self.engine.own_loss
        return targets if own is None else targets | {target_of(name): found[name] for name in own.teacher}

    def _least_rate(self, steps: int) -> float:
        """The rate with which half of the codes of few bits could move by a level in so many steps.

        A trial is short: the less it moves such codes, the better it looks.
        """
        units = [
            form.gap().ravel()
            for form in self.engine.student.forms.values()
            if isinstance(form, Coded | Summed)
        ]
        return float(np.median(np.concatenate(units))) / (_MEAN_RATE * steps) if units else 0.0

    def _rates(self, steps: int, least: float) -> dict[float, float]:
        """Rates and the loss after a short trial of each: the usual one, then further as long as it helps."""
        found: dict[float, float] = {}
        rates = [rate for rate in _FURTHER if rate >= least] or [_FURTHER[-1]]

        def loss(place: int) -> float:
            rate = rates[place]
            if rate not in found:
                self.progress(f"trying the rate {rate:g}")
                found[rate] = self._trial(rate, steps)
            return found[rate]

        place = rates.index(_USUAL) if _USUAL in rates else 0
        usual = loss(place)
        way = 1 if place + 1 < len(rates) and loss(place + 1) < usual else -1
        while 0 <= place + way < len(rates) and loss(place + way) < loss(place):
            place += way
        return found

    def _trial(self, rate: float, steps: int) -> float:
        """The loss on held-out samples after a short training with a rate; the student stays as it was."""
        before = self.copy()
        state = State(steps, rate, optimizer=Optimizer(self.settings.optimizer))
        loss = 0.0
        while state.step < steps and math.isfinite(loss):
            loss = self._advance(state, steps)
            state.step += 1
        look = self.judge.look(self.engine, 0) if math.isfinite(loss) else None
        self.restore(before)
        return math.inf if look is None else self._total(look)

    def _room(self, seconds: float) -> float:
        """How many steps there is time for; each shape of inputs costs a session, as often as it is gone."""
        before, state, taken = self.copy(), State(_TIMED, 0.0), []
        for state.step in [0] * _TIMED:  # one session is built, and one batch is known to the teacher
            begun = time.monotonic()
            self._advance(state, _TIMED)
            taken.append(time.monotonic() - begun)
        self.restore(before)
        each, shapes = sorted(taken)[_TIMED // 3], self.pool.shapes
        build = max(taken[0] - each, 0.0)
        first = min(min(shapes, SESSIONS) * build, _BUILDING * seconds)
        return (seconds - first) / (_OVERHEAD * (each + build * max(1 - SESSIONS / shapes, 0.0)))

    def weighed(self, look: Look) -> Look:
        """A look with the sum of its terms as they are weighed in training."""
        return replace(look, loss=self._total(look))

    def _total(self, look: Look) -> float:
        return sum(self.engine.weights[term.name] * look.terms[term.name] for term in self.engine.terms)

    def parameters(self) -> dict[str, Array]:
        """Of all weights, by the name of the weight and of the parameter; those themselves, no copies."""
        return {
            f"{name}/{part}": array
            for name, form in self.engine.student.forms.items()
            for part, array in form.parameters.items()
        }

    def restore(self, kept: Mapping[str, Array]) -> None:
        """Give the student other parameters."""
        for name, array in self.parameters().items():
            array[...] = kept[name]

    def copy(self) -> dict[str, Array]:
        """The parameters as they are now."""
        return {name: array.copy() for name, array in self.parameters().items()}


def _labels(labels: Sequence[Array], indices: Sequence[int]) -> Array:
    return np.concatenate([np.ravel(labels[index]) for index in indices]).astype(np.int64)
