"""The short way: prune or quantize, then let the result learn from the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from onnxslim.calibration.data import DataLike
from onnxslim.errors import OptionError
from onnxslim.measure.metrics import is_function
from onnxslim.model.io import ModelLike, load
from onnxslim.recipes.budget import Drop
from onnxslim.recipes.distill import distill
from onnxslim.recipes.evidence import check_drop, check_sqnr
from onnxslim.recipes.learning import HELD_OUT_SHARE
from onnxslim.recipes.parts import open_data
from onnxslim.recipes.pipeline import Result
from onnxslim.recipes.search import Progress
from onnxslim.runtime.client import open_worker

__all__ = ["distilled"]

R = TypeVar("R", bound=Result)


def distilled(
    make: Callable[[DataLike, DataLike | None], R],
    source: ModelLike,
    data: DataLike | None,
    *,
    time: str | float,
    drop: Drop | None,
    min_sqnr: float = 0.0,
    test: DataLike | None = None,
    metric: str | None = None,
    metric_output: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = lambda message: None,
) -> R:
    """Make a student and train it; what decides which weights are kept was seen by neither.

    Args:
        make: a function of data and of what scores, that makes the student of ``source``.
        time: of the training.
        drop, min_sqnr: what may be lost of the metric at most, and must be left of the signal, once it is
            trained.

    Raises:
        OptionError: there are no data to learn on.
        BudgetError: more is lost, or less is left.
    """
    if data is None:
        raise OptionError("there is nothing to learn on", hint="--distill needs --data")
    model = load(source)
    with open_worker() as worker:
        feeds = open_data(worker, model, data, seed=seed, **(data_options or {}))
    if test is None and not is_function(metric):
        feeds, test = feeds.split(0.7, seed)
    pool, held_out = feeds.split(1 - HELD_OUT_SHARE, seed + 1)
    student = make(pool, test)
    if student.unchanged is not None:
        note = "nothing was distilled: the model is the original"
        return replace(student, report=replace(student.report, notes=(*student.report.notes, note)))
    found = distill(
        student.model,
        source,
        pool,
        held_out=held_out,
        time=time,
        test=test,
        metric=metric,
        metric_output=metric_output,
        seed=seed,
        progress=progress,
    )
    score = found.report.metric
    assert score is not None
    whole = {**score, "before": score["teacher"], "student": score["before"]}
    check_drop(whole, drop, 1 / score["n"] if score["n"] else 0.0, "more time or --data")
    if min_sqnr:
        check_sqnr(found.report.verification, min_sqnr, "more time or --data")
    report = replace(
        student.report,
        after=found.report.after,
        metric=whole,
        verification=found.report.verification,
        distillation=found.report.distillation,
        declined=(*student.report.declined, *found.report.declined),
        notes=tuple(dict.fromkeys((*student.report.notes, *found.report.notes))),
    )
    return replace(student, model=found.model, report=report)
