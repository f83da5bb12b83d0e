"""``share`` of what is only similar: neurons, then tensors and rows, then values; each inside the budget.

Of the data that are not tested on one part is observed, and on the other a form of each stage is judged: the
strongest that is accepted is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.cost import summary
from onnxslim.analysis.repeats import function_notes
from onnxslim.calibration.data import DataLike
from onnxslim.model.io import ModelLike
from onnxslim.passes.base import Decline
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.extract_functions import ExtractFunctions
from onnxslim.passes.merge_similar_weights import MergeSimilarWeights
from onnxslim.passes.quantize_vectors import QuantizeVectors
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.named import share_steps, simplify_steps
from onnxslim.recipes.opened import opened
from onnxslim.recipes.pipeline import Result, path_of
from onnxslim.recipes.quality import Judge
from onnxslim.recipes.recipe import apply_overrides
from onnxslim.recipes.sharing.request import ShareRequest
from onnxslim.recipes.sharing.stage import strongest
from onnxslim.recipes.sharing.stages import Work, stages

__all__ = ["share_nearly"]

_HELD_OUT = 64  # feeds that judge a form; more would cost more time than they teach


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
    first = (*simplify_steps(), *share_steps())  # weights and channels are found in a simple graph
    later = (MergeSimilarWeights(), CodebookWeights(), QuantizeVectors(), ExtractFunctions())
    apply_overrides((*first, *later), options)  # each must concern one of them
    names = {step.name for step in later}
    own = {name: given for name, given in options.items() if name in names}
    rest = {name: given for name, given in options.items() if name not in names}
    steps = apply_overrides(first, rest)
    given: dict[str, Any] = {"test": test, "data_options": data_options, "steps": steps}
    with opened(source, data, request, **given, progress=progress) as run:
        found, parts = run.base, run.parts
        held_out = parts.held_out.spread(_HELD_OUT)
        judge: Judge | None = None
        if request.drop is not None:
            output, labels = request.output, held_out.labels
            feeds = list(held_out)
            judge = Judge(
                run.worker, run.original, feeds, labels, request.drop, output, unseen=run.own_metric
            )
        work = Work(run.worker, parts, list(held_out), request, own, progress)
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
            extracted = run_steps(found.model, (work.with_options(ExtractFunctions()),), run.prover)
            found = Outcome(extracted.model, [*found.applied, *extracted.applied], [])
            notes += function_notes(run.original, found.model)
        changed = any(record.modified for record in found.applied)
        model = found.model if changed else run.original
        report = run.report(
            model,
            request.drop,
            passes=found.applied,
            declined=declined,
            notes=notes,
            progress=progress,
        )
        unchanged = None if changed else path_of(source)
    return Result(model, replace(report, after=report.before) if unchanged else report, unchanged)


def _bytes(model: ir.Model) -> float:
    return float(summary(model, macs=False)["bytes"])
