"""Time two models in turn and say whether the second is faster, slower, equal, or that nothing can be said.

Protocol.  Several worker processes run one after another, each for several epochs.  In each epoch, sessions
of A, of A again (A', the control: what identical models differ by here) and of B are created anew, in random
order with equal options, and timed in chunks of about 20 ms in a random balanced order; the fastest call of a
chunk counts.  A round gives log(B / A); their median is the ratio, and a bootstrap over epochs and rounds its
interval.  Epochs are short because where a session's weights happen to lie in memory can change its speed by
some per cent, for as long as the session lives: only further sessions average that out.

A model is called faster or slower only if the whole interval lies beyond 2 % (more where the control itself
strays), equal only if all of it lies within.  Whoever times one block of runs after another claims a speed-up
of 5 % between identical models in half of all trials on a busy machine.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxslim.errors import ModelError, OptionError
from onnxslim.measure.diagnosis import diagnose
from onnxslim.measure.setting import Feed, Inputs, Setting, draw_inputs, given_inputs
from onnxslim.measure.stats import nested_bootstrap, pooled_median
from onnxslim.measure.verdict import (
    MARGIN,
    Clock,
    Epoch,
    Verdict,
    choose_clock,
    claim_margin,
    decide,
    is_settled,
    log_ratios,
)
from onnxslim.runtime.client import RemoteSession, open_worker
from onnxslim.runtime.errors import RuntimeRefused
from onnxslim.runtime.sources import RunnableModel

__all__ = ["Latency", "Timing", "conclude", "measure_latency", "pays"]

_PROCESSES = 5
_MIN_PROCESSES = 3
_EPOCH_S = 0.3  # or half as long as creating the sessions takes


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds per call of one model; ``best`` is the median of the chunks' fastest calls."""

    p50: float
    p90: float
    p99: float
    best: float


@dataclass(frozen=True, slots=True)
class Latency:
    """What was measured.

    Attributes:
        verdict: of B against A; None when there was no B.
        ratio: time of B / time of A; below 1, B is faster.
        interval: of the ratio, at 95 %.
        control: the same ratio between two sessions of A, and its interval.
        clock: ``wall``, or ``cpu`` where calls were interrupted (CPU time at one thread).
        a, b: seconds per call.
        reliable: nothing in the diagnosis forbids a claim.
        diagnosis: what to know about these figures, in plain words.
        epochs, rounds, seconds: how much was measured.
        raw: per epoch and round: ``b_over_a`` and ``control``, log ratios of B and of A' to A by the clock
            that was used; ``wall_ns`` and ``cpu_ns``, the fastest call of each chunk, of A, A' and B.
    """

    verdict: Verdict | None
    ratio: float
    interval: tuple[float, float]
    control: float
    control_interval: tuple[float, float]
    clock: Clock
    a: Timing
    b: Timing | None
    reliable: bool
    diagnosis: tuple[str, ...]
    epochs: int
    rounds: int
    seconds: float
    threads: int
    providers: tuple[str, ...]
    seed: int
    raw: Mapping[str, list[list[Any]]] = field(repr=False)

    @property
    def seconds_a(self) -> float:
        """Median seconds per call of A."""
        return self.a.p50

    @property
    def seconds_b(self) -> float:
        """Median seconds per call of B (of A when there was no B)."""
        return self.a.p50 if self.b is None else self.b.p50

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def pays(measured: Latency) -> bool:
    """Whether B is surely not slower: the interval's upper end is at most 1.02."""
    return measured.reliable and measured.interval[1] <= 1 + MARGIN


def measure_latency(
    a: RunnableModel,
    b: RunnableModel | None = None,
    *,
    feeds: Iterable[Feed] | Inputs | None = None,
    threads: int = 1,
    budget_s: float = 20.0,
    seed: int = 0,
    providers: Sequence[str] = (),
    cuda_graph: bool = False,
) -> Latency:
    """Measure the time of one model, or compare the times of two.

    Args:
        a, b: models, messages or paths.
        feeds: input name -> array; the first eight are used. Default: random ones that A accepts.
        threads: intra-op threads of each session.
        budget_s: seconds to spend; three processes are measured for a moment in any case.
        seed: of all random orders, and of random feeds.
        providers: execution providers in order of preference, also by short name; default CPU.  On a device,
            inputs and outputs stay in its memory, and a call ends when it has computed them.
        cuda_graph: replay each call as a CUDA graph.

    Raises:
        ModelError: a model does not run on the feeds.
        OptionError: no feeds, or a bad number.
        DependencyError: a provider is not installed.

    Example:
        >>> from onnx.parser import parse_model
        >>> text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
        >>> measure_latency(parse_model(text), budget_s=1).verdict is None
        True
    """
    if not budget_s > 0:
        raise OptionError("the time to measure must be positive")
    started = time.monotonic()
    models = {"A": a, "A'": a} if b is None else {"A": a, "A'": a, "B": b}
    setting = Setting.of(threads, providers, cuda_graph)
    if feeds is None:
        feeds = draw_inputs(a, setting, seed)
    inputs = feeds if isinstance(feeds, Inputs) else given_inputs(feeds)
    found: list[Epoch] = []
    order = random.Random(seed)
    share = min(4.0, budget_s / (_PROCESSES + 1))
    for process in itertools.count(1):
        begun = time.monotonic()
        found += _epochs(models, inputs.feeds, share, order, setting, check=process == 1)
        cost, spent = time.monotonic() - begun, time.monotonic() - started
        if process < _MIN_PROCESSES and (spent < 2 * budget_s or process < 2):
            continue
        if spent + cost > budget_s or (process > _MIN_PROCESSES and is_settled(found, setting.on_cpu, seed)):
            break
    return conclude(found, inputs, setting, seed, time.monotonic() - started)


def _epochs(
    models: Mapping[str, RunnableModel],
    feeds: Sequence[Feed],
    seconds: float,
    order: random.Random,
    setting: Setting,
    check: bool,
) -> list[Epoch]:
    """Epochs in one process, at least one, until ``seconds`` are over; ``check`` runs every feed first."""
    found: list[Epoch] = []
    names = list(models)
    with open_worker(fresh=True) as worker:
        end = time.monotonic() + seconds
        while not found or time.monotonic() < end:
            order.shuffle(names)
            begun = time.monotonic()
            sessions = {name: setting.load(worker, name[0], models[name]) for name in names}
            length = max(_EPOCH_S, min((time.monotonic() - begun) / 2, seconds))
            if check and not found:
                for name in ("A", "B"):
                    if name in sessions:
                        _try(sessions[name], name, feeds)
            found.append(
                worker.call(
                    "onnxslim.measure.remote.loop:epoch",
                    [setting.bound(sessions[name]) for name in sorted(names)],  # A, A', B
                    list(feeds),
                    length,
                    order.getrandbits(32),
                    timeout=600 + 20 * length,
                )
            )
            for session in sessions.values():
                session.close()
    return found


def _try(session: RemoteSession, name: str, feeds: Sequence[Feed]) -> None:
    for number, feed in enumerate(feeds):
        try:
            session.run(feed)
        except RuntimeRefused as error:
            where = f"model {name}, feed {number}"
            raise ModelError(
                error.what, where=where, hint="check the names and shapes of the inputs"
            ) from error


def conclude(found: list[Epoch], inputs: Inputs, setting: Setting, seed: int, seconds: float) -> Latency:
    """The result of epochs as :func:`onnxslim.measure.remote.loop.epoch` returns them."""
    clock, trouble = choose_clock(found, setting.on_cpu)
    two = found[0]["wall"].shape[1] == 3
    control = log_ratios(found, clock, 1)
    ratios = log_ratios(found, clock, 2) if two else control
    low, high = nested_bootstrap(ratios, seed=seed)
    stray = nested_bootstrap(control, seed=seed)
    troubles = diagnose(found, inputs, setting.threads, pooled_median(control))
    troubles[:0] = [trouble] if trouble else []
    verdict = decide(low, high, abs(pooled_median(control)), troubles) if two else None
    notes = [trouble.text for trouble in troubles]
    reliable = not any(trouble.fatal for trouble in troubles)
    if verdict == "inconclusive" and reliable:
        margin = math.expm1(claim_margin(pooled_median(control)))
        notes.append(
            f"the interval [{math.exp(low):.3f}, {math.exp(high):.3f}] reaches across the margin of "
            f"{margin:.1%}: measure longer"
        )
    timings = [_timing(found, column) for column in ((0, 2) if two else (0,))]
    return Latency(
        verdict=verdict,
        ratio=math.exp(pooled_median(ratios)) if two else 1.0,
        interval=(math.exp(low), math.exp(high)) if two else (1.0, 1.0),
        control=math.exp(pooled_median(control)),
        control_interval=(math.exp(stray[0]), math.exp(stray[1])),
        clock=clock,
        a=timings[0],
        b=timings[-1] if two else None,
        reliable=reliable,
        diagnosis=tuple(notes),
        epochs=len(found),
        rounds=sum(len(epoch["wall"]) for epoch in found),
        seconds=seconds,
        threads=setting.threads,
        providers=setting.providers,
        seed=seed,
        raw={
            "b_over_a": [epoch.tolist() for epoch in ratios] if two else [],
            "control": [epoch.tolist() for epoch in control],
            "wall_ns": [epoch["wall"].tolist() for epoch in found],
            "cpu_ns": [epoch["cpu"].tolist() for epoch in found],
        },
    )


def _timing(found: Sequence[Epoch], column: int) -> Timing:
    calls = np.concatenate([epoch["calls"][column] for epoch in found]) / 1e9
    best = np.concatenate([epoch["wall"][:, column] for epoch in found]) / 1e9
    p50, p90, p99 = (float(x) for x in np.percentile(calls, [50, 90, 99]))
    return Timing(p50, p90, p99, float(np.median(best)))
