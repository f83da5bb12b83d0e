"""What every verb with data begins and ends with: the simplified model, the parts of the data, the evidence.

Nothing is chosen by the test data.  With ``test`` they are a source of their own, and a metric that is a
function brings its own; otherwise ``data`` is split 70/30 by the seed.  What remains is split again: one part
is fitted on, the other judges.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from onnxslim._ir import ir
from onnxslim.calibration.data import DataLike
from onnxslim.measure.latency import Latency, measure_latency
from onnxslim.measure.metrics import Metric, is_function, resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import FileInfo, ModelLike, load, save
from onnxslim.passes.base import Decline, Promise
from onnxslim.recipes.engine import Outcome, Step, run_steps
from onnxslim.recipes.evidence import check_drop, latency_fields, metric_fields
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.parts import Parts, open_data, split_data
from onnxslim.recipes.pipeline import source_file
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.pruning.widths import sized
from onnxslim.report.report import PassRecord, Report
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.environment import environment

__all__ = ["Asked", "Opened", "opened"]

_LATENCY_FEEDS = 4
_LATENCY_S = 8.0


class Asked(Protocol):
    """What each request says of the data, of the score and of the measurement."""

    @property
    def metric(self) -> str | None: ...
    @property
    def output(self) -> str | None: ...
    @property
    def threads(self) -> int | tuple[int, ...]: ...
    @property
    def verify_limit(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Opened:
    """One run of a verb on one model with its data.

    Attributes:
        original, file: the model as it came, and its file.
        base: the same simplified.
        parts: of the data.
        metric: on the part to test on.
        prover: that verified the simplification.
        folder: for files that are not kept.
    """

    worker: Worker
    asked: Asked
    original: ir.Model
    file: FileInfo
    base: Outcome
    parts: Parts
    metric: Metric
    prover: Prover
    folder: Path

    @property
    def own_metric(self) -> bool:
        """Whether the metric is a function, of which nothing is known but its value."""
        return is_function(self.asked.metric)

    @property
    def threads(self) -> int:
        """The first number of threads that was asked for."""
        asked = self.asked.threads
        return asked if isinstance(asked, int) else asked[0]

    def latency(self, file: FileInfo) -> Latency:
        """Time of another file against the original."""
        return measure_latency(
            self.file.path,
            file.path,
            feeds=list(self.parts.held_out.spread(_LATENCY_FEEDS)),
            threads=self.threads,
            budget_s=_LATENCY_S,
            seed=self.asked.seed,
        )

    def report(
        self,
        model: ir.Model,
        drop: Any,
        *,
        passes: Sequence[PassRecord],
        declined: Sequence[Decline],
        notes: Sequence[str],
        progress: Callable[[str], None],
    ) -> Report:
        """Score a result, once, measure and verify it.

        Args:
            drop: what may be lost of the metric at most; None allows everything.

        Raises:
            BudgetError: more is lost.
        """
        result = save(model, self.folder / "result.onnx")
        progress("scoring the result")
        before, after = self.metric.score(self.file.path), self.metric.score(result.path)
        scored = metric_fields(self.metric.name, before, after)
        check_drop(scored, drop, before.resolution, "more --data")
        progress("measuring time")
        latency = latency_fields(self.latency(result))
        feeds = list(self.parts.held_out.spread(_LATENCY_FEEDS))
        checked = verify(self.original, model, feeds, promise=Promise.LOSSY, worker=self.worker)
        return Report(
            input=self.file,
            before=sized(self.original, feeds[0]),
            after=sized(model, feeds[0]),
            passes=tuple(passes),
            declined=tuple(declined),
            verification=checked.to_dict(),
            metric=scored,
            latency=latency,
            environment=environment(),
            seeds={"data": self.asked.seed},
            notes=(*self.prover.notes, *self.parts.notes, *notes),
        )


@contextmanager
def opened(
    source: ModelLike,
    data: DataLike | None,
    asked: Asked,
    *,
    test: DataLike | None = None,
    data_options: Mapping[str, Any] | None = None,
    steps: Sequence[Step] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Iterator[Opened]:
    """Load and simplify a model, open its data and split them.

    Args:
        data: None for random ones.
        steps: default those of ``simplify``.

    Raises:
        CalibrationError: the data do not fit the model.
        OptionError: there is no such metric.
    """
    original = load(source)
    with open_worker() as worker, tempfile.TemporaryDirectory(prefix="onnxslim-") as name:
        folder = Path(name)
        file = source_file(source, original) or save(original, folder / "original.onnx")
        progress("simplifying")
        prover = Prover(worker, limit_bytes=asked.verify_limit, seed=asked.seed)
        base = run_steps(original, simplify_steps() if steps is None else steps, prover)
        feeds = open_data(
            worker, original, "random" if data is None else data, seed=asked.seed, **(data_options or {})
        )
        own_test = is_function(asked.metric)
        parts = split_data(feeds, test, original, seed=asked.seed, own_test=own_test)
        metric = resolve(
            asked.metric or "agreement", original=original, feeds=parts.test, output=asked.output
        )
        yield Opened(worker, asked, original, file, base, parts, metric, prover, folder)
