"""``prune``: simplify, find channels, rank them, remove what the target asks for, reconstruct, prove it.

Nothing is chosen by the test data.  With ``test`` they are a source of their own, and a metric that is a
function brings its own; otherwise ``data`` is split 70/30 by the seed.  Of the rest one part is what channels
are ranked on and another where the noise of a group is measured; the reconstruction is fitted on both, unless
a budget (``max_drop``) is judged on the latter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxslim.analysis.channels import Mask, weights_digest
from onnxslim.calibration.data import DataLike
from onnxslim.measure.metrics import is_function, resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import ModelLike, load, save
from onnxslim.passes.base import Promise
from onnxslim.passes.deduplicate_initializers import DeduplicateInitializers
from onnxslim.passes.separate_vectors import SeparateVectors
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.evidence import check_drop, latency_fields, metric_fields
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.parts import open_data, split_data
from onnxslim.recipes.pipeline import Result, source_file
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.pruning.request import PruneRequest
from onnxslim.recipes.pruning.widths import sized
from onnxslim.recipes.pruning.work import Work
from onnxslim.report.report import Report
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.environment import environment

__all__ = ["PruneResult", "prune_model"]

Progress = Callable[[str], None]

_HELD_OUT = 32  # feeds on which the noise of a group is measured
_LATENCY_FEEDS = 4
_LATENCY_S = 8.0
_NAME = "prune-channels"


@dataclass(frozen=True)
class PruneResult(Result):
    """The pruned model, and the mask that says what went: of the simplified model's groups."""

    mask: Mask = field(default_factory=lambda: Mask({}))


def prune_model(
    source: ModelLike,
    data: DataLike | None,
    request: PruneRequest,
    *,
    test: DataLike | None = None,
    data_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda message: None,
) -> PruneResult:
    """Prune a model.

    Raises:
        CalibrationError: the data do not fit the model.
        BudgetError: the target is not met, or more is lost than allowed.
        OptionError: a mask of another model.
    """
    original = load(source)
    with open_worker() as worker, tempfile.TemporaryDirectory(prefix="onnxslim-") as name:
        folder = Path(name)
        file = source_file(source, original) or save(original, folder / "original.onnx")
        progress("simplifying")
        prover = Prover(worker, limit_bytes=request.verify_limit, seed=request.seed)
        base = run_steps(original, (*simplify_steps(), SeparateVectors()), prover)
        opened = open_data(
            worker, original, "random" if data is None else data, seed=request.seed, **(data_options or {})
        )
        own_test = is_function(request.metric)
        parts = split_data(opened, test, original, seed=request.seed, own_test=own_test)
        metric = resolve(
            request.metric or "agreement", original=original, feeds=parts.test, output=request.output
        )
        work = Work(worker, base, parts, request, original, file, folder, progress)
        found = work.best()
        shared = run_steps(found.model, (DeduplicateInitializers(),), prover)
        result = save(shared.model, folder / "result.onnx")
        progress("scoring the result")
        before, after = metric.score(file.path), metric.score(result.path)
        scored = metric_fields(metric.name, before, after)
        check_drop(scored, request.drop, before.resolution, "more --data")
        progress("measuring time")
        latency = latency_fields(work.latency(result))
        feeds = list(parts.held_out.spread(_LATENCY_FEEDS))
        checked = verify(original, shared.model, feeds, promise=Promise.LOSSY, worker=worker)
        report = Report(
            input=file,
            before=sized(original, feeds[0]),
            after=sized(shared.model, feeds[0]),
            passes=(*base.applied, *found.outcome.applied, *shared.applied),
            declined=(*base.declined, *found.outcome.declined, *shared.declined, *work.declined),
            verification=checked.to_dict(),
            metric=scored,
            latency=latency,
            environment=environment(),
            seeds={"data": request.seed},
            notes=(*prover.notes, *parts.notes, *work.notes),
        )
        mask = Mask(found.removal, weights_digest(base.model))
    return PruneResult(shared.model, report, mask=mask)
