"""``prune``: simplify, find channels, rank them, remove what the target asks for, reconstruct, prove it.

On some of the part that judges the noise of a group is measured; the reconstruction is fitted on all that is
not tested on, unless a budget (``max_drop``) is judged on the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxslim.analysis.channels import Mask, weights_digest
from onnxslim.calibration.data import DataLike
from onnxslim.model.io import ModelLike
from onnxslim.recipes.opened import opened
from onnxslim.recipes.pipeline import Result
from onnxslim.recipes.pruning.request import PruneRequest
from onnxslim.recipes.pruning.work import Work

__all__ = ["PruneResult", "prune_model"]

Progress = Callable[[str], None]


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
    with opened(source, data, request, test=test, data_options=data_options, progress=progress) as run:
        work = Work(run, request, progress)
        found = work.best()
        report = run.report(
            found.model,
            request.drop,
            passes=(*work.base.applied, *found.outcome.applied),
            declined=(*work.base.declined, *found.declined, *work.declined),
            notes=(*work.notes, *found.remarks),
            progress=progress,
        )
        mask = Mask(found.removal, weights_digest(work.base.model))
    return PruneResult(found.model, report, mask=mask)
