"""``share`` of what is only similar: neurons, then tensors and rows, then values; each inside the budget.

Nothing is chosen by the test data.  With ``test`` they are a source of their own, and a metric that is a
function brings its own; otherwise ``data`` is split 70/30 by the seed.  Of the rest one part is observed, and
on the other a form of each stage is judged: the strongest that is accepted is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.cost import summary
from onnxslim.analysis.repeats import function_notes
from onnxslim.calibration.data import DataLike
from onnxslim.measure.latency import measure_latency
from onnxslim.measure.metrics import is_function, resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import ModelLike, load, save
from onnxslim.passes.base import Decline, Promise
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.extract_functions import ExtractFunctions
from onnxslim.passes.merge_similar_weights import MergeSimilarWeights
from onnxslim.passes.quantize_vectors import QuantizeVectors
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.evidence import check_drop, latency_fields, metric_fields
from onnxslim.recipes.named import share_steps, simplify_steps
from onnxslim.recipes.parts import open_data, split_data
from onnxslim.recipes.pipeline import Result, path_of, source_file
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.pruning.widths import sized
from onnxslim.recipes.quality import Judge
from onnxslim.recipes.recipe import apply_overrides
from onnxslim.recipes.sharing.request import ShareRequest
from onnxslim.recipes.sharing.stage import strongest
from onnxslim.recipes.sharing.stages import Work, stages
from onnxslim.report.report import Report
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.environment import environment

__all__ = ["share_nearly"]

_HELD_OUT = 64  # feeds that judge a form; more would cost more time than they teach
_LATENCY_FEEDS, _LATENCY_S = 4, 8.0


def share_nearly(
    source: ModelLike,
    data: DataLike | None,
    request: ShareRequest,
    *,
    test: DataLike | None = None,
    data_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]],
    progress: Callable[[str], None] = lambda message: None,
) -> Result:
    """Share what is equal, then what the request says.

    Raises:
        CalibrationError: the data do not fit the model.
        BudgetError: more is lost than allowed.
    """
    original = load(source)
    with open_worker() as worker, tempfile.TemporaryDirectory(prefix="onnxslim-") as name:
        folder = Path(name)
        file = source_file(source, original) or save(original, folder / "original.onnx")
        progress("simplifying, and sharing what is equal")
        prover = Prover(worker, limit_bytes=request.verify_limit, seed=request.seed)
        first = (*simplify_steps(), *share_steps())  # weights and channels are found in a simple graph
        later = (MergeSimilarWeights(), CodebookWeights(), QuantizeVectors(), ExtractFunctions())
        apply_overrides((*first, *later), options)  # each must concern one of them
        names = {step.name for step in later}
        own = {name: given for name, given in options.items() if name in names}
        rest = {name: given for name, given in options.items() if name not in names}
        found = run_steps(original, apply_overrides(first, rest), prover)
        opened = open_data(
            worker, original, "random" if data is None else data, seed=request.seed, **(data_options or {})
        )
        own_test = is_function(request.metric)
        parts = split_data(opened, test, original, seed=request.seed, own_test=own_test)
        metric = resolve(
            request.metric or "agreement", original=original, feeds=parts.test, output=request.output
        )
        held_out = parts.held_out.spread(_HELD_OUT)
        judge: Judge | None = None
        if request.drop is not None:
            output, labels = request.output, held_out.labels
            feeds = list(held_out)
            judge = Judge(worker, original, feeds, labels, request.drop, output, unseen=own_test)
        work = Work(worker, parts, list(held_out), request, own, progress)
        notes: list[str] = []
        declined: list[Decline] = [*found.declined]
        for make in stages(request):
            stage = make(work, found.model)
            progress(stage.name)

            def accepts(model: ir.Model, stage_accepts: Any = stage.accepts) -> bool:
                if stage_accepts is not None and not stage_accepts(model):
                    return False
                return judge is None or judge.score(model).rejected is None

            form = strongest(stage, accepts)
            if form is None:
                notes.append(f"{stage.name}: nothing was accepted by the held-out data, so nothing was done")
                continue
            if _bytes(form.outcome.model) >= _bytes(found.model):
                notes.append(f"{stage.name}: nothing was similar enough to save bytes")
                declined += form.outcome.declined
                continue
            found = Outcome(form.outcome.model, [*found.applied, *form.outcome.applied], [])
            declined += form.outcome.declined
            notes.append(f"{stage.name}: {form.note}")
        if request.functions:
            extracted = run_steps(found.model, (work.with_options(ExtractFunctions()),), prover)
            found = Outcome(extracted.model, [*found.applied, *extracted.applied], [])
            notes += function_notes(original, found.model)
        if not any(record.modified for record in found.applied):
            found.model = original
        result = save(found.model, folder / "result.onnx")
        progress("scoring the result")
        before, after = metric.score(file.path), metric.score(result.path)
        scored = metric_fields(metric.name, before, after)
        check_drop(scored, request.drop, before.resolution, "more --data")
        progress("measuring time")
        feeds = list(parts.held_out.spread(_LATENCY_FEEDS))
        latency = measure_latency(
            file.path,
            result.path,
            feeds=feeds,
            threads=request.threads,
            budget_s=_LATENCY_S,
            seed=request.seed,
        )
        checked = verify(original, found.model, feeds, promise=Promise.LOSSY, worker=worker)
        report = Report(
            input=file,
            before=sized(original, feeds[0]),
            after=sized(found.model, feeds[0]),
            passes=tuple(found.applied),
            declined=tuple(declined),
            verification=checked.to_dict(),
            metric=scored,
            latency=latency_fields(latency),
            environment=environment(),
            seeds={"data": request.seed},
            notes=(*prover.notes, *parts.notes, *notes),
        )
        unchanged = path_of(source) if found.model is original else None
    return Result(found.model, replace(report, after=report.before) if unchanged else report, unchanged)


def _bytes(model: ir.Model) -> float:
    return float(summary(model, macs=False)["bytes"])
