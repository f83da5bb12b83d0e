"""``distill``: the student learns, on data without labels, to say what its teacher says.

With ``test`` the test data are a source of their own, and a metric that is a function brings its own;
otherwise ``data`` is split 70/30 by the seed.  Of the rest most is trained on, and what is left decides which
weights are kept.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.cost import summary
from onnxslim.calibration.checkpoint import DataDigest
from onnxslim.calibration.data import DataLike, Feeds
from onnxslim.calibration.fingerprint import fingerprint
from onnxslim.distillation.checkpoint import Checkpoint
from onnxslim.distillation.engine import Engine, stackable
from onnxslim.distillation.judge import Judge, Look
from onnxslim.distillation.losses import plan_terms
from onnxslim.distillation.optimizer import OptimizerName
from onnxslim.distillation.samples import Pool
from onnxslim.distillation.students import Student, find_student
from onnxslim.distillation.trainer import Settings, State, Trainer
from onnxslim.errors import CalibrationError, ModelError, OptionError
from onnxslim.measure.metrics import resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import ModelLike, load, save
from onnxslim.passes.base import Decline, Promise
from onnxslim.recipes.budget import parse_duration
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.parts import Parts, open_data, split_data
from onnxslim.recipes.pipeline import Result, path_of, source_file
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.search import Progress
from onnxslim.report.report import Report
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.environment import environment
from onnxslim.runtime.providers import resolve as resolve_providers

__all__ = ["distill"]

Array = npt.NDArray[Any]

_FITTED = 0.85  # of what is not tested on
_HELD_OUT = 256  # samples that are looked at, at most
_CHECKED = 32  # feeds on which the outputs are compared
_WALL_S = 3600.0  # of one request: a large step on few cores


@dataclass(frozen=True)
class _Request:
    settings: Settings
    size: int
    vary: bool
    labels: bool
    threads: int
    providers: tuple[str, ...]
    checkpoint: Path | None
    resume: bool


def distill(
    student: ModelLike,
    teacher: ModelLike,
    data: DataLike,
    *,
    time: str | float = "5min",
    steps: int | None = None,
    batch_size: int = 32,
    rate: float | None = None,
    optimizer: OptimizerName = "adam",
    augment: bool = True,
    labels: bool = False,
    test: DataLike | None = None,
    metric: str | None = None,
    metric_output: str | None = None,
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
    threads: int | None = None,
    providers: Sequence[str] = ("cpu",),
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress = lambda message: None,
) -> Result:
    """Train a compressed model to say what the original says, without labels and without its framework.

    Args:
        student: path, ``ModelProto`` or ``ir.Model``; never changed.  The result has the same operators and
            types of weights, with other contents.
        teacher: the original, of the same inputs.
        data: inputs to learn on; labels are not needed.
        time: of the training: ``"5min"``; the number of steps follows from the time of one.
        steps: instead of ``time``: how many; two runs then give equal files.
        batch_size: samples of a step, where the models take several at once.
        rate: of learning; default the best of a few, after a short trial of each.
        optimizer: ``adam`` or ``sgd``.
        augment: shift what looks like images, mix samples of floats.
        labels: learn the ``__labels__`` of the data too.
        threads: of onnxruntime; default the cores that there are.
        checkpoint: a file that keeps what was done so far.
        resume: go on with what ``checkpoint`` holds.

    The other arguments are those of :func:`onnxslim.compress`.

    Raises:
        OptionError: teacher and student do not belong together; the checkpoint belongs to another run.
        CalibrationError: the data do not fit the models.
        ModelError: nothing in the student can be trained.
    """
    if steps is not None and steps < 1:
        raise OptionError(f"the number of steps must be at least 1, not {steps}")
    if batch_size < 1:
        raise OptionError(f"the batch size must be at least 1, not {batch_size}")
    if rate is not None and not 0 < rate < 1:
        raise OptionError(f"the learning rate must lie between 0 and 1, not {rate}")
    if resume and checkpoint is None:
        raise OptionError("there is no checkpoint to resume", hint="name its file")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    request = _Request(
        Settings(steps, parse_duration(time), optimizer, rate, seed),
        batch_size,
        augment,
        labels,
        threads or cores,
        resolve_providers(providers),
        None if checkpoint is None else Path(checkpoint),
        resume,
    )
    options = {"samples": samples, "batch": batch, "images": images}
    return _distill(student, teacher, data, request, test, metric, metric_output, options, progress)


def _distill(
    source: ModelLike,
    teacher_source: ModelLike,
    data: DataLike,
    request: _Request,
    test: DataLike | None,
    metric_name: str | None,
    metric_output: str | None,
    options: Mapping[str, Any],
    progress: Progress,
) -> Result:
    original, teacher = load(source), load(teacher_source)
    _check_pair(original, teacher)
    seed = request.settings.seed
    with open_worker(wall_s=_WALL_S) as worker, tempfile.TemporaryDirectory(prefix="onnxslim-") as name:
        folder = Path(name)
        file = source_file(source, original) or save(original, folder / "student.onnx")
        reference = source_file(teacher_source, teacher) or save(teacher, folder / "teacher.onnx")
        progress("simplifying")
        prover = Prover(worker, seed=seed)
        base = run_steps(original, simplify_steps(), prover)
        other = run_steps(teacher, simplify_steps(), Prover(worker, seed=seed)).model
        opened = open_data(worker, original, data, seed=seed, **options)
        own_test = metric_name is not None and ":" in metric_name
        parts = split_data(opened, test, original, seed=seed, own_test=own_test, fitted=_FITTED)
        metric = resolve(metric_name or "agreement", original=teacher, feeds=parts.test, output=metric_output)
        begun = monotonic()
        run = _Run(worker, find_student(worker, base.model), other, parts, request, progress)
        state = run.train()
        seconds = monotonic() - begun
        model, after = run.result(base.model, state)
        notes = [*prover.notes, *parts.notes, *run.notes]
        result = save(model, folder / "result.onnx") if model is not None else file
        progress("scoring the result")
        top, start, end = (metric.score(path) for path in (reference.path, file.path, result.path))
        feeds = list(parts.held_out.spread(_CHECKED))
        first = verify(teacher, original, feeds, promise=Promise.LOSSY, worker=worker)
        last = first if model is None else verify(teacher, model, feeds, promise=Promise.LOSSY, worker=worker)
        told = run.told(state, after, seconds)
        report = Report(
            input=file,
            before=summary(original),
            after=summary(original if model is None else model),
            passes=tuple(base.applied),
            declined=(*base.declined, *(Decline("distill", *each) for each in run.frozen().items())),
            verification=last.to_dict(),
            metric={"name": metric.name, "before": start.value, "after": end.value, "n": end.n}
            | {"interval": end.interval, "teacher": top.value},
            distillation={**told, "outputs": first.to_dict()["outputs"], "teacher": reference.path},
            environment=environment(),
            seeds={"data": seed},
            notes=tuple(notes),
        )
        if model is None:
            return Result(original, report, path_of(source))
    return Result(model, report)


def _check_pair(student: ir.Model, teacher: ir.Model) -> None:
    """Whether one can learn from the other.

    Raises:
        OptionError: their inputs differ, or they have no output in common.
    """

    def inputs(model: ir.Model) -> dict[str | None, ir.DataType | None]:
        return {v.name: v.dtype for v in model.graph.inputs if v.name not in model.graph.initializers}

    own, other = inputs(student), inputs(teacher)
    if own != other:
        names = sorted(str(name) for name, _ in {*own.items()} ^ {*other.items()})
        raise OptionError(
            "the student and its teacher take different inputs",
            where=f"input {names[0]}",
            hint="give the model that the student was made of",
        )
    floats = {value.name for value in student.graph.outputs if value.dtype in (None, ir.DataType.FLOAT)}
    if not floats & {value.name for value in teacher.graph.outputs}:
        raise OptionError(
            "the student and its teacher have no output of floats in common",
            hint="give the model that the student was made of",
        )


@dataclass
class _Run:
    """One training: the models, the data and what was asked for."""

    worker: Worker
    student: Student
    teacher: ir.Model
    parts: Parts
    request: _Request
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def train(self) -> State:
        """Train the student.

        Raises:
            ModelError: nothing can be trained.
        """
        request = self.request
        terms = plan_terms(self.student.graph, self.teacher, labelled=request.labels)
        if not self.student.forms or not terms:
            raise ModelError(
                "nothing in the student can be trained: no weight of a known form is left",
                hint="distil before the weights are quantized",
            )
        self.engine = Engine(
            self.worker, self.student, self.teacher, terms, request.threads, request.providers
        )
        feeds, labels = _read(self.parts.fit, request.labels)
        held, held_labels = _read(self.parts.held_out.spread(_HELD_OUT), request.labels)
        together = stackable(self.engine.other.run, feeds) and stackable(self._own, feeds)
        if not together:
            self.notes.append("the models take one sample at a time, and so did each step of the training")
        size = request.size if together else 1
        self.judge = Judge.of(self.engine, held, held_labels, size=size)
        pool = Pool(
            feeds,
            size=size,
            seed=request.settings.seed,
            together=together,
            vary=request.vary,
            mix=not request.labels,
        )
        self.trainer = Trainer(self.engine, pool, self.judge, request.settings, labels, self.progress)
        first = self.trainer.prepare()
        checkpoint = Checkpoint(request.checkpoint, self._identity())
        self.trainer.keep = checkpoint.save
        kept = checkpoint.load(self.trainer.parameters()) if request.resume else None
        if kept is None:
            state = self.trainer.begin(first)
        else:
            state, parameters = kept
            self.trainer.restore(parameters)
        return self.trainer.run(state)

    def _own(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return self.engine.own.run(feed, {name: f.value() for name, f in self.student.forms.items()})

    def _identity(self) -> dict[str, Any]:
        digest = DataDigest()
        for sample in self.parts.fit.samples():
            digest.add(sample)
        asked, settings = self.request, self.request.settings
        return {
            "student": fingerprint(self.student.model),
            "teacher": fingerprint(self.teacher),
            "number of steps": settings.steps,
            "time": None if settings.steps else settings.seconds,
            "optimizer": settings.optimizer,
            "rate": settings.rate,
            "seed": settings.seed,
            "batch size": asked.size,
            "augmentation": asked.vary,
            "labels": asked.labels,
            "number of threads": asked.threads,
            "providers": list(asked.providers),
            "runtime": environment().get("onnxruntime"),
            "data": digest.hexdigest(),
        }

    def result(self, base: ir.Model, state: State) -> tuple[ir.Model | None, Look]:
        """The trained model as it is stored, and what held-out samples say of it; None if not better."""
        assert state.best_look is not None
        before = state.looks[0]
        if not state.best_look.step:
            self.notes.append("returned unchanged: no step of the training agreed better with the teacher")
            return None, before
        model = self.student.stored()
        found = self.trainer.weighed(
            self.judge.look_at(self.engine.observed(model).run, state.best_look.step)
        )
        start = self.trainer.weighed(self.judge.look_at(self.engine.observed(base).run, 0))
        if found.agreement < start.agreement or not found.loss < start.loss:
            self.notes.append(
                "returned unchanged: as it is stored, the trained model agrees less than before"
            )
            return None, before
        return model, found

    def frozen(self) -> dict[str, str]:
        """What was not trained -> why."""
        return {**self.student.frozen, **self.engine.frozen}

    def told(self, state: State, after: Look, seconds: float) -> dict[str, Any]:
        """``Report.distillation``."""
        before, frozen = state.looks[0], self.frozen()
        trained = [
            {"name": name, "kind": form.kind, "elements": form.value().size}
            for name, form in self.student.forms.items()
            if name not in frozen
        ]
        assert state.best_look is not None
        return {
            "steps": state.step,
            "planned": state.steps,
            "best": state.best_look.step,
            "seconds": seconds,
            "rate": state.rate,
            "rates": state.rates,
            "rollbacks": state.rollbacks,
            "samples": len(self.parts.fit),
            "terms": [
                {
                    "name": term.name,
                    "weight": self.engine.weights[term.name],
                    "before": before.terms[term.name],
                    "after": after.terms[term.name],
                }
                for term in self.engine.terms
            ],
            "looks": [
                {"step": look.step, "loss": look.loss, "agreement": look.agreement} for look in state.looks
            ],
            "losses": state.losses,
            "trained": trained,
            "frozen": frozen,
        }


def _read(feeds: Feeds, labelled: bool) -> tuple[list[dict[str, Array]], list[Array] | None]:
    """All feeds, and the labels where they are asked for."""
    samples = list(feeds.samples())
    if not labelled:
        return [sample.feed for sample in samples], None
    labels = [sample.labels for sample in samples if sample.labels is not None]
    if len(labels) != len(samples):
        raise CalibrationError(
            "the data have no labels to learn",
            hint="put them under the key __labels__, or leave --labels out",
        )
    return [sample.feed for sample in samples], [np.asarray(label) for label in labels]
