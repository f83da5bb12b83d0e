"""Measure what the kernels of a target cost on this machine, and fit its cost terms to the times."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from onnxslim.errors import ModelError, OptionError
from onnxslim.measure.costs.fit import fit_costs
from onnxslim.measure.costs.sketch import Sketch
from onnxslim.measure.costs.trials import measurable, trials
from onnxslim.measure.setting import Setting
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.kernels import executed
from onnxslim.runtime.targets.target import Cost, Fusion, Target
from onnxslim.runtime.targets.work import Work

__all__ = ["Finding", "Measurement", "measure_target"]

_EPOCH_S = 0.3
_TRIAL_S = 0.5  # what a trial takes with all around it
_LEAST, _MOST = 5, 15  # trials of a fusion with one or two terms
_SHARES = {"Conv": 5, "Conv, depthwise": 4, "Gemm": 2, "MatMul": 2}  # those with more terms need more
_PARTS = tuple(part.name for part in fields(Cost))

_NO_WORK = Work()

Progress = Callable[[str], None]
_Job = tuple[Fusion, Sketch]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one fusion.

    Attributes:
        trials: graphs that were measured.
        work: what a node did on average.
        missing: why its kernel was not found, empty when it was.
        error: median of ``|fitted / measured - 1|`` over its trials, both forms; NaN without any.
        ratio: range of the measured times, integer form over float form.
    """

    fusion: Fusion
    trials: int
    work: Work = _NO_WORK
    missing: str = ""
    error: float = math.nan
    ratio: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A target with the costs of this machine.

    Attributes:
        target: the new one.
        findings: one per fusion, in the order of the target.
        call_ns: of a session's call that does nothing.
        errors: of all trials, ``fitted / measured - 1``.
    """

    target: Target
    findings: tuple[Finding, ...]
    call_ns: float
    errors: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Median of ``|fitted / measured - 1|`` over all times."""
        return float(np.median(np.abs(self.errors)))


@dataclass(frozen=True, slots=True)
class _Timed:
    fusion: Fusion
    float_row: dict[str, float]
    integer_row: dict[str, float]
    float_ns: float
    integer_ns: float


def measure_target(
    target: Target,
    *,
    seconds: float = 120.0,
    runtime: str = "",
    machine: str = "",
    seed: int = 0,
    progress: Progress = lambda message: None,
) -> Measurement:
    """Measure the costs of a target on this machine, on one thread.

    Graphs of random sizes are built for every fusion, alone and in chains, in floats and in integers; the
    runtime's own dump says whether the kernel appears; both forms are timed in turn.  All times together
    are then explained as sums of the nodes' work, of conversions and of changes of layout: non-negative
    least squares on relative errors.

    Args:
        target: whose fusions to measure.
        seconds: about how long to take; some trials of every fusion are made in any case.
        runtime, machine: what the new target says of where it was measured; default what the old one says.
        seed: of the graphs.

    Raises:
        OptionError: it is the target of another provider than the CPU's.
    """
    if not target.is_cpu:
        raise OptionError(
            f"{target.name} stands for {target.provider}; only the CPU's kernels are measured",
            hint="measure a target whose name begins with cpu",
        )
    timed: list[_Timed] = []
    missing: dict[str, str] = {}
    end = time.monotonic() + seconds
    jobs, optional = _jobs(target, seconds, seed)
    with open_worker(fresh=True) as worker:
        for number, (fusion, sketch) in enumerate([*jobs, *optional], 1):
            if number > len(jobs) and time.monotonic() > end:
                break
            progress(f"trial {number} of {len(jobs) + len(optional)}: {fusion.name}")
            found = _time(worker, target, fusion, sketch, seed + number)
            if isinstance(found, str):
                missing[fusion.name] = found
            else:
                timed.append(found)
    if not timed:
        raise ModelError("no kernel of the target appears in this onnxruntime", where=target.name)
    named = replace(target, runtime=runtime or target.runtime, machine=machine or target.machine)
    return _conclude(named, timed, missing)


def _jobs(target: Target, seconds: float, seed: int) -> tuple[list[_Job], list[_Job]]:
    """The trials that have to be made, and those that the time may allow."""
    chosen = [fusion for fusion in target.fusions if measurable(fusion)]
    total = sum(_SHARES.get(fusion.name, 1) for fusion in chosen)
    each = min(_MOST, max(_LEAST, round(seconds / _TRIAL_S / max(total, 1))))
    must: list[_Job] = []
    may: list[_Job] = []
    for fusion in chosen:
        share = _SHARES.get(fusion.name, 1)
        jobs = [(fusion, sketch) for sketch in trials(target, fusion, each * share, seed)]
        must += jobs[: _LEAST * share]
        may += jobs[_LEAST * share :]
    for jobs in (must, may):  # what disturbs for a while shall not hit one fusion alone
        random.Random(seed).shuffle(jobs)
    return must, may


def _time(worker: Worker, target: Target, fusion: Fusion, sketch: Sketch, seed: int) -> _Timed | str:
    """Both forms, or why the integer one is not what it should be."""
    setting, models = Setting(), (sketch.float_model(), sketch.integer_model())
    runs = [executed(model) for model in models]
    for kernel, count in sketch.kernels.items():
        if runs[1].histogram.get(kernel, 0) < count:
            return f"{fusion.kernel} does not appear; it runs {', '.join(runs[1].histogram)}"
    sessions = [setting.load(worker, "A", model) for model in models]
    epoch = worker.call(
        "onnxslim.measure.remote.loop:epoch",
        [setting.bound(session) for session in sessions],
        [sketch.feed()],
        _EPOCH_S,
        seed,
        timeout=600,
    )
    for session in sessions:
        session.close()
    float_ns, integer_ns = np.minimum(epoch["wall"], epoch["cpu"]).min(axis=0)
    histograms = [run.histogram for run in runs]
    return _Timed(
        fusion,
        _row(sketch, "float", histograms[0]),
        _row(sketch, "integer", histograms[1]),
        float(float_ns),
        float(integer_ns),
    )


def _row(sketch: Sketch, form: str, histogram: dict[str, int]) -> dict[str, float]:
    """What a model does: ``{"term.part": amount}``."""
    row: dict[str, float] = defaultdict(float)
    row["call.node"] = 1.0

    def add(term: str, work: Work) -> None:
        row[f"{term}.node"] += 1
        for part in fields(work):
            if amount := getattr(work, part.name):
                row[f"{term}.{part.name}"] += amount

    for name, work in sketch.float_work if form == "float" else sketch.integer_work:
        add(f"{name}.{form}", work)
    quantized, dequantized = sketch.converted
    sizes = {name: Work(output=math.prod(shape)) for name, shape in sketch.shapes.items()}
    if form == "float":
        moved = [sketch.inputs] * bool(histogram.get("ReorderInput")) + [sketch.outputs] * bool(
            histogram.get("ReorderOutput")
        )
    else:
        own = sketch.kernels.get("Transpose", 0)
        moved = [sketch.inputs, sketch.outputs][: histogram.get("Transpose", 0) - own]
        for name in quantized:
            add("quantize", sizes[name])
        for name in dequantized:
            add("dequantize", sizes[name])
    for names in moved:
        for name in names:
            add(f"layout.{form}", sizes[name])
    return dict(row)


def _conclude(target: Target, timed: Sequence[_Timed], missing: dict[str, str]) -> Measurement:
    rows = [row for each in timed for row in (each.float_row, each.integer_row)]
    times = [ns for each in timed for ns in (each.float_ns, each.integer_ns)]
    costs, errors = fit_costs(rows, times)

    def cost(term: str) -> Cost:
        return Cost(**{part: costs.get(f"{term}.{part}", 0.0) for part in _PARTS})

    def fitted(fusion: Fusion) -> Fusion:
        return replace(
            fusion,
            float_cost=cost(f"{fusion.name}.float"),
            integer_cost=cost(f"{fusion.name}.integer"),
        )

    findings, fusions = [], []
    for fusion in target.fusions:
        numbers = [number for number, each in enumerate(timed) if each.fusion.name == fusion.name]
        reason = missing.get(fusion.name, "" if numbers else "there are no trials for it")
        new = fitted(fusion) if numbers else fusion
        fusions.append(new)
        if not numbers:
            findings.append(Finding(new, 0, missing=reason))
            continue
        ratios = [timed[number].integer_ns / timed[number].float_ns for number in numbers]
        error = float(np.median([abs(errors[2 * number + form]) for number in numbers for form in (0, 1)]))
        work = _average([timed[number].integer_row for number in numbers], f"{fusion.name}.integer")
        findings.append(Finding(new, len(numbers), work, reason, error, (min(ratios), max(ratios))))
    measured = replace(
        target,
        fusions=tuple(fusions),
        quantize=cost("quantize"),
        dequantize=cost("dequantize"),
        float_layout=cost("layout.float"),
        integer_layout=cost("layout.integer"),
        measured=True,
        source="times of generated graphs, by onnxslim doctor --measure",
    )
    return Measurement(measured, tuple(findings), costs.get("call.node", 0.0), tuple(errors.tolist()))


def _average(rows: Sequence[dict[str, float]], term: str) -> Work:
    """The mean over the nodes of a term."""
    nodes = sum(row.get(f"{term}.node", 0.0) for row in rows)
    sums = {part.name: sum(row.get(f"{term}.{part.name}", 0.0) for row in rows) for part in fields(Work)}
    return Work(**{name: amount / max(nodes, 1.0) for name, amount in sums.items()})
