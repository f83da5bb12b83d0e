"""``compress`` and ``quantize``: simplify, calibrate, try candidates, keep the best that pays, prove it.

The test data are not seen by what selects.  Of the rest one part is calibrated on, and pruned models are
fitted to it; the other judges the candidates.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from onnxslim.analysis.cost import summary
from onnxslim.calibration.store import Calibration
from onnxslim.errors import BudgetError
from onnxslim.model.io import ModelLike
from onnxslim.passes.integer_io import IntegerIo
from onnxslim.recipes.contest import Contest
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.evidence import encoding_notes
from onnxslim.recipes.learning import TRAINING_WALL_S
from onnxslim.recipes.opened import opened
from onnxslim.recipes.pipeline import Result, path_of
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.request import Request
from onnxslim.recipes.search import Progress
from onnxslim.runtime.client import open_worker

__all__ = ["search_best"]


def search_best(
    source: ModelLike,
    data: Any,
    request: Request,
    *,
    test: Any = None,
    calibration: Calibration | None = None,
    data_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda message: None,
) -> Result:
    """Find the best form of a model inside a budget; the original where none pays.

    Raises:
        CalibrationError: the data do not fit the model.
        BudgetError: an explicit target is not met.
    """
    begun = time.monotonic()
    given: dict[str, Any] = {"test": test, "data_options": data_options, "progress": progress}
    patient = nullcontext() if request.distill is None else open_worker(wall_s=TRAINING_WALL_S)
    with patient, opened(source, data, request, **given) as run:
        before = run.metric.score(run.file.path)
        contest = Contest(run, request, calibration, progress, begun + request.seconds)
        contest.explore()
        best, after = contest.winner(before)
        if best is None and (request.latency is not None or request.size is not None):
            tried = "; ".join(f"{trial.name}: {trial.rejected}" for trial in contest.trials)
            raise BudgetError(
                f"no candidate meets the target: {tried}",
                hint="relax the target, --max-drop, or give more --data and --time",
            )
        if best is not None and request.sign_inputs:
            progress("looking for products that may read signs")
            best, after = contest.with_signs(best, before, after)
        result = contest.result(best, before, after, path_of(source))
        if request.integer_io:
            progress("making inputs and outputs integers")
            prover = Prover(run.worker, contest.feeds, request.verify_limit, request.seed)
            return with_integer_io(result, prover)
        return result


def with_integer_io(result: Result, prover: Prover) -> Result:
    """The result with integer inputs and outputs: a last step, proven bit by bit on integers of its own.

    All that was scored and measured before holds on: from the same numbers it computes the same numbers.
    """
    outcome = run_steps(result.model, (IntegerIo(),), prover)
    report = result.report
    if not any(record.modified for record in outcome.applied):
        notes = (*report.notes, "no input or output could become an integer one")
    else:
        notes = (*report.notes, *encoding_notes(outcome.model), *prover.notes)
        if prover.last is not None:
            count = prover.last.samples
            notes += (f"fed with integers it computes the same bits ({count} feed{'s' * (count != 1)})",)
        result = replace(result, model=outcome.model, unchanged=None)
    report = replace(
        report,
        after=summary(outcome.model),
        passes=(*report.passes, *outcome.applied),
        declined=(*report.declined, *outcome.declined),
        notes=notes,
    )
    return replace(result, report=report)
