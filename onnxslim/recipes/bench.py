"""``bench``: everything that is worth knowing before and after, in one report.

The times come first and alone; what would disturb them (profiling, memory, callers at once, accuracy) is
measured afterwards, in runs of its own.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxslim.analysis.cost import summary
from onnxslim.calibration.data import DataLike, Feeds, open_feeds
from onnxslim.errors import OptionError
from onnxslim.measure.footprint import measure_footprint
from onnxslim.measure.latency import Latency, measure_latency
from onnxslim.measure.metrics import resolve
from onnxslim.measure.setting import Inputs, Setting, draw_inputs, given_inputs, thread_counts
from onnxslim.measure.throughput import measure_throughput
from onnxslim.measure.transfers import measure_transfers
from onnxslim.measure.verdict import Verdict
from onnxslim.measure.verify import verify
from onnxslim.model.io import ModelLike, load, save
from onnxslim.passes.base import Promise
from onnxslim.recipes.evidence import latency_fields, metric_fields, profile_fields
from onnxslim.recipes.gates import Gate, parse_gate
from onnxslim.recipes.pipeline import path_of, source_file
from onnxslim.report.report import Report
from onnxslim.runtime.environment import environment

__all__ = ["Bench", "bench"]

_AGREEMENT_FEEDS = 64  # for a metric that nobody asked for
_RANDOM = "the inputs were random: times are as good as with real ones for most models, accuracy is not"


@dataclass(frozen=True)
class Bench:
    """What :func:`bench` found.

    Attributes:
        latency: times in the first setting.
        report: all of it.
    """

    latency: Latency
    report: Report

    @property
    def verdict(self) -> Verdict | None:
        """``faster``, ``slower``, ``equal`` or ``inconclusive``, of B against A; None for a single model."""
        return self.latency.verdict

    @property
    def ratio(self) -> float:
        """Time of B / time of A."""
        return self.latency.ratio

    @property
    def interval(self) -> tuple[float, float]:
        """Of the ratio, at 95 %."""
        return self.latency.interval

    @property
    def broken(self) -> tuple[str, ...]:
        """The gates that were broken, each with what was found."""
        return tuple(f"{g['gate']}: {g['found']}" for g in self.report.gates if g["verdict"] == "broken")

    def to_dict(self) -> dict[str, Any]:
        """As plain data: the verdict first, then the report."""
        return self.report.to_dict()


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and on what: the arguments of :func:`bench`, read and checked."""

    threads: tuple[int, ...] = (1,)
    dims: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    streams: tuple[int, ...] = ()
    providers: tuple[str, ...] = ()
    cuda_graph: bool = False
    metric: str | None = None
    metric_output: str | None = None
    profile: bool = False
    gates: tuple[Gate, ...] = ()
    budget_s: float = 20.0
    seed: int = 0

    def scenarios(self) -> list[tuple[str, int, dict[str, int]]]:
        """``(name, threads, dims)`` of every setting of the sweep."""
        found = []
        for sizes in itertools.product(*self.dims.values()):
            dims = dict(zip(self.dims, sizes, strict=True))
            for threads in self.threads:
                parts = [f"{threads} thread{'s' if threads > 1 else ''}"]
                parts += [f"{name}={size}" for name, size in dims.items()]
                found.append((", ".join(parts), threads, dims))
        return found


def bench(
    a: ModelLike,
    b: ModelLike | None = None,
    *,
    data: DataLike | None = None,
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
    threads: int | Sequence[int] = 1,
    dims: Mapping[str, int | Sequence[int]] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    streams: int | Sequence[int] = (),
    providers: Sequence[str] = (),
    cuda_graph: bool = False,
    metric: str | None = None,
    metric_output: str | None = None,
    profile: bool = False,
    fail_if: Sequence[str] = (),
    budget_s: float = 20.0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> Bench:
    """Measure one model, or compare two: time with an interval, memory, size, accuracy.

    Args:
        a, b: path, ``ModelProto`` or ``ir.Model``; never changed.
        data: what to run on, by default random inputs; ``samples``, ``batch`` and ``images``
            as in ``open_feeds``.
        threads: intra-op threads; several values make a sweep.
        dims: sizes of symbolic dimensions of random inputs; several values of one make a sweep.
        input_shapes: whole shapes of random inputs, by name.
        streams: numbers of callers at once, whose throughput is measured.
        providers: execution providers in order of preference, also by short name; default CPU.
        cuda_graph: replay each call as a CUDA graph.
        metric: as in :func:`onnxslim.compress`; by default how often B agrees with A.
        metric_output: the output that the metric reads; default the first.
        profile: per-node times of both, in a run of their own.
        fail_if: gates, ``slower>5%``, ``bytes>+0``, ``drop>1%``; see
            :func:`onnxslim.recipes.gates.parse_gate`.
        budget_s: seconds of measuring times, for each setting of a sweep.
        seed: of all random orders and inputs.
        progress: called with a line of text as the work goes on.

    Raises:
        ModelError: a model is invalid, or does not run on the inputs.
        OptionError: an argument is wrong, or inputs are needed that only the user has.
        DependencyError: a provider is not installed.

    Example:
        >>> from onnx.parser import parse_model
        >>> text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
        >>> bench(parse_model(text), budget_s=1).verdict is None
        True
    """
    plan = Plan(
        threads=thread_counts(threads),
        dims={name: _several(sizes) for name, sizes in (dims or {}).items()},
        input_shapes=dict(input_shapes or {}),
        streams=_several(streams),
        providers=tuple(providers),
        cuda_graph=cuda_graph,
        metric=metric,
        metric_output=metric_output,
        profile=profile,
        gates=tuple(map(parse_gate, fail_if)),
        budget_s=budget_s,
        seed=seed,
    )
    if b is None and (plan.gates or metric):
        raise OptionError("gates and metrics compare two models", hint="give the second model")
    if data is not None and (plan.dims or plan.input_shapes):
        raise OptionError("sizes are those of the data", hint="give either data, or --dim and --input-shape")
    for count in plan.threads:  # what is asked for must be there before anything is measured
        Setting.of(count, plan.providers, cuda_graph)
    given = [a] if b is None else [a, b]
    models = [load(model) for model in given]
    feeds = None
    if data is not None:
        feeds = open_feeds(data, models[0], samples=samples, batch=batch, images=images, seed=seed)
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        files = [
            path_of(source) or Path(save(model, Path(folder) / f"{name}.onnx").path)
            for source, model, name in zip(given, models, "ab", strict=False)
        ]
        latency, report = _measure(files, feeds, plan, progress)
    sources = [source_file(source, model) for source, model in zip(given, models, strict=True)]
    counts = [summary(model) for model in models]
    report = replace(
        report,
        input=sources[0],
        output=sources[1] if b is not None else None,
        before=counts[0],
        after=counts[1] if b is not None else {},
    )
    report = replace(report, gates=tuple(gate.judge(report) for gate in plan.gates))
    return Bench(latency, report)


def _several(values: int | Sequence[int]) -> tuple[int, ...]:
    return (values,) if isinstance(values, int) else tuple(dict.fromkeys(values))


def _measure(
    files: Sequence[Path], feeds: Feeds | None, plan: Plan, progress: Callable[[str], None]
) -> tuple[Latency, Report]:
    """Everything about the files that takes running them; the first of them is A."""
    a, b = files[0], files[1] if len(files) > 1 else None
    scenarios = plan.scenarios()
    found: list[tuple[Setting, Inputs, Latency]] = []
    for number, (name, threads, dims) in enumerate(scenarios, 1):
        progress(f"measuring time: {name}" + (f" ({number} of {len(scenarios)})" if scenarios[1:] else ""))
        setting = Setting.of(threads, plan.providers, plan.cuda_graph)
        inputs = (
            given_inputs(feeds)
            if feeds is not None
            else draw_inputs(a, setting, plan.seed, dims, plan.input_shapes)
        )
        if plan.cuda_graph:  # it replays the addresses that it was captured with: those of one feed
            inputs = replace(inputs, feeds=inputs.feeds[:1])
        measured = measure_latency(
            a,
            b,
            feeds=inputs,
            threads=threads,
            budget_s=plan.budget_s,
            seed=plan.seed,
            providers=plan.providers,
            cuda_graph=plan.cuda_graph,
        )
        found.append((setting, inputs, measured))
    setting, inputs, latency = found[0]
    fields = [latency_fields(each, name) for (_, _, each), (name, _, _) in zip(found, scenarios, strict=True)]
    progress("measuring memory and start")
    sides = {"before": a, "after": b}
    footprint = {
        side: measure_footprint(file, inputs, setting, name=name).to_dict() if file else None
        for name, (side, file) in zip("AB", sides.items(), strict=True)
    }
    throughput = []
    for streams in plan.streams:
        progress(f"measuring throughput: {streams} streams")
        each = measure_throughput(a, b, inputs, streams, setting, seed=plan.seed).to_dict()
        throughput.append({"before": each.pop("a"), "after": each.pop("b"), **each})
    notes = list(latency.diagnosis)
    report = Report(
        latency=fields[0],
        scenarios=tuple(fields) if len(fields) > 1 else (),
        footprint=footprint,
        throughput=tuple(throughput),
        environment=environment(),
        seeds={"bench": plan.seed},
    )
    if setting.device is not None:
        moved = {
            side: measure_transfers(file, inputs, setting) if file else None for side, file in sides.items()
        }
        report = replace(report, transfers=moved)
    if plan.profile or setting.providers != Setting().providers:
        progress("profiling nodes")
        report = replace(report, profile=profile_fields(a, b, inputs, setting))
        notes += _fallbacks(report.profile or {}, setting)
    if b is not None:
        progress("comparing outputs")
        checked = verify(a, b, inputs.feeds, promise=Promise.LOSSY)
        score, remark = _score(a, b, feeds if feeds is not None else inputs.feeds, plan)
        report = replace(report, verification=checked.to_dict(), metric=score)
        notes += [remark] if remark else []
    if feeds is None or feeds.is_random:
        notes.append(_RANDOM)
    return latency, replace(report, notes=tuple(dict.fromkeys(notes)))


def _score(a: Path, b: Path, feeds: Any, plan: Plan) -> tuple[dict[str, Any] | None, str]:
    """The metric of both, or None with the reason; only a metric that was asked for is worth an error."""
    if plan.metric is None and isinstance(feeds, Feeds) and feeds.sized:
        feeds = feeds.spread(_AGREEMENT_FEEDS)
    try:
        metric = resolve(plan.metric or "agreement", original=a, feeds=feeds, output=plan.metric_output)
        before, after = metric.score(a), metric.score(b)
    except OptionError as error:
        if plan.metric is not None or plan.metric_output is not None:
            raise
        return None, f"no agreement of outputs: {error.what}"
    return metric_fields(metric.name, before, after), ""


def _fallbacks(profile: Mapping[str, Any], setting: Setting) -> list[str]:
    """What onnxruntime silently gave to another provider than the first."""
    notes = []
    for side, label in (("before", "A"), ("after", "B")):
        providers = (profile.get(side) or {}).get("providers") or {}
        others = {name: count for name, count in providers.items() if name != setting.providers[0]}
        if others:
            total, listed = sum(providers.values()), ", ".join(f"{n} on {p}" for p, n in others.items())
            notes.append(f"{label}: of {total} nodes, {listed} instead of {setting.providers[0]}")
    return notes
