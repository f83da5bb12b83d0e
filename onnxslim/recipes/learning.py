"""One training of one student: from its models and data to the weights that are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.calibration.checkpoint import DataDigest
from onnxslim.calibration.data import Feeds
from onnxslim.calibration.fingerprint import fingerprint
from onnxslim.distillation.blockwise import BlockTrainer
from onnxslim.distillation.checkpoint import Checkpoint
from onnxslim.distillation.engine import Engine, stackable
from onnxslim.distillation.judge import Judge, Look
from onnxslim.distillation.losses import Term, plan_terms
from onnxslim.distillation.own_loss import OwnLoss, read_loss
from onnxslim.distillation.parts import Cut, find_cuts
from onnxslim.distillation.pieces import samples_of
from onnxslim.distillation.samples import Pool
from onnxslim.distillation.students import Student, find_student
from onnxslim.distillation.trainer import Settings, State, Trainer
from onnxslim.errors import CalibrationError, ModelError
from onnxslim.passes.base import Decline
from onnxslim.recipes.parts import Parts
from onnxslim.recipes.search import Progress
from onnxslim.report.text import counted
from onnxslim.runtime.client import DEFAULT_BUDGET, Worker
from onnxslim.runtime.environment import environment

__all__ = ["HELD_OUT_SHARE", "TRAINING_WALL_S", "Asked", "Learned", "cores", "learn"]

Array = npt.NDArray[Any]

HELD_OUT_SHARE = 0.15
"""Of what is not tested on, how much decides which weights are kept."""
TRAINING_WALL_S = 3600.0
"""Of one request to the worker: a large step on few cores."""
_LOOKED_AT = 320  # samples that are looked at, with their variations, at most
_VARIATIONS = 3  # of each
_MEMORY = DEFAULT_BUDGET // 2  # of the tensors of a step, where nothing was asked for; the arena wants more


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Asked:
    """What a user asks of a training; see :func:`onnxslim.distill`."""

    settings: Settings
    size: int = 32
    vary: bool = True
    labels: float = 0.0
    threads: int = field(default_factory=cores)
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    checkpoint: Path | None = None
    resume: bool = False
    block_wise: bool = False
    max_memory: int | None = None
    loss: ir.Model | None = None


@dataclass(frozen=True)
class Learned:
    """What came of a training.

    Attributes:
        model: the trained one as it is stored; None where it is not better.
        told: ``Report.distillation``.
        declined: what was not trained.
    """

    model: ir.Model | None
    told: dict[str, Any]
    declined: tuple[Decline, ...]
    notes: tuple[str, ...]


def learn(
    worker: Worker, student: ir.Model, teacher: ir.Model, parts: Parts, request: Asked, progress: Progress
) -> Learned:
    """Train a student on one part of the data; another one decides which weights are kept.

    Args:
        student, teacher: both simplified.

    Raises:
        ModelError: nothing can be trained.
    """
    begun = monotonic()
    run = Learning(worker, find_student(worker, student, teacher), teacher, parts, request, progress)
    state = run.train()
    seconds = monotonic() - begun
    model, after = run.result(student, state)
    declined = tuple(Decline("distill", *each) for each in run.frozen().items())
    return Learned(model, run.told(state, after, seconds), declined, tuple(run.notes))


@dataclass
class Learning:
    """One training: the models, the data and what was asked for."""

    worker: Worker
    student: Student
    teacher: ir.Model
    parts: Parts
    request: Asked
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def train(self) -> State:
        """Train the student.

        Raises:
            ModelError: nothing can be trained.
        """
        request = self.request
        own = None if request.loss is None else read_loss(request.loss, self.student.graph, self.teacher)
        terms, compared = self._terms(own)
        cuts = self._cuts() if request.block_wise else []
        labelled = bool(request.labels) or (own is not None and own.labelled)
        feeds, labels = _read(self.parts.fit, labelled)
        self.engine = Engine(
            self.worker,
            self.student,
            self.teacher,
            terms,
            request.threads,
            request.providers,
            lean=request.block_wise or _several_shapes(feeds),  # each session would keep its most
            own_loss=own,
            compared=compared,
        )
        held, held_labels = _read(self.parts.held_out.spread(_LOOKED_AT), labelled)
        together = stackable(self.engine.other.run, feeds) and stackable(self._own, feeds)
        if not together:
            self.notes.append("the models take one sample at a time, and so did each step of the training")
        size = request.size if together else 1
        seed = request.settings.seed
        how: dict[str, Any] = {
            "size": size,
            "together": together,
            "vary": request.vary,
            "mix": not labelled,
        }
        others = Pool(held, seed=seed + 1, **how)
        times = min(_VARIATIONS, max(_LOOKED_AT // len(held) - 1, 0)) if request.vary else 0
        found = (others.batch(step) for step in range(times * others.epoch))
        more = [batch for batch in found if batch.varied]
        pool = Pool(feeds, seed=seed, **how)
        self.engine.rows = _rows_of(feeds) if together else 0
        self._fit(pool.batch(0).feed, whole=not cuts)
        self.judge = Judge.of(self.engine, held, held_labels, size=size, more=more)
        self.trainer = Trainer(self.engine, pool, self.judge, request.settings, labels, self.progress)
        first = self.trainer.prepare()
        checkpoint = Checkpoint(request.checkpoint, self._identity())
        self.trainer.keep = checkpoint.save
        kept, *block = checkpoint.load(self.trainer.parameters()) if request.resume else [None]
        if kept is not None:
            self.trainer.restore(kept.parameters)
        if cuts:
            blocks = BlockTrainer(self.trainer, cuts, checkpoint.save)
            return blocks.run(blocks.begin(first) if kept is None else kept.state, *block)
        return self.trainer.run(self.trainer.begin(first) if kept is None else kept.state)

    def _terms(self, own: OwnLoss | None) -> tuple[list[Term], Term]:
        """What is learned, and by which of the outputs student and teacher are compared."""
        request = self.request
        terms = plan_terms(self.student.graph, self.teacher, labelled=bool(request.labels))
        if not self.student.forms or not terms:
            raise ModelError(
                "nothing in the student can be trained: no weight of a known form is left",
                hint="distil before the weights are quantized",
            )
        compared = next((term for term in terms if term.kind == "kl"), terms[0])
        if own is not None:
            return [own.term, *(term for term in terms if term.kind == "cross-entropy")], compared
        return [term for term in terms if not (term.inside and request.block_wise)], compared

    def _cuts(self) -> list[Cut]:
        found = find_cuts(self.student, self.teacher)
        if not found:
            raise ModelError(
                "the student cannot be trained block by block: nowhere does a single value, one that its "
                "teacher has too, reach all that comes behind",
                hint="leave --block-wise out; where channels were pruned, shapes may differ everywhere",
            )
        return found

    def _fit(self, feed: Mapping[str, Array], *, whole: bool) -> None:
        """Let steps stay below the memory that they may take."""
        asked = self.request.max_memory
        most = _MEMORY // 2 if self.engine.lean else _MEMORY  # several sessions stand side by side
        self.engine.limit = asked if asked is not None or self.request.loss is not None else most
        self.engine.strict = asked is not None  # else the worker's own limit has the last word
        if whole and self.engine.limit is not None:
            size, samples = self.engine.plan(feed), samples_of(feed, self.engine.rows)
            if self.engine.unsized:
                tensors = counted(self.engine.unsized, "tensor")
                self.notes.append(
                    f"the size of {tensors} of a step is not known: the limit of memory leaves them out"
                )
            if size < samples:
                self.notes.append(
                    f"{counted(size, 'sample')} of {samples} were computed at once, for their memory"
                )

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
            "training by blocks": asked.block_wise,
            "memory": asked.max_memory,
            "loss": None if asked.loss is None else fingerprint(asked.loss),
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
        forms = self.student.forms
        found = {forms[name].name: why for name, why in self.engine.frozen.items() if name in forms}
        return {**self.student.frozen, **found}

    def told(self, state: State, after: Look, seconds: float) -> dict[str, Any]:
        """``Report.distillation``."""
        before, frozen = state.looks[0], self.frozen()
        trained = [
            {"name": form.name, "kind": form.kind, "elements": form.value().size}
            for form in self.student.forms.values()
            if form.name not in frozen
        ]
        assert state.best_look is not None
        return {
            "steps": state.step,
            "planned": state.steps,
            "best": state.best_look.step,
            "seconds": seconds,
            "peak_bytes": self.worker.call("onnxslim.measure.remote.footprint:memory", "VmHWM"),
            "rate": None if state.blocks else state.rate,
            "blocks": state.blocks,
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


def _rows_of(feeds: Sequence[Mapping[str, Array]]) -> int:
    """How many rows each input of each sample has; 0 where they differ."""
    found = {len(value) if value.ndim else 0 for feed in feeds for value in feed.values()}
    return found.pop() if len(found) == 1 else 0


def _read(feeds: Feeds, labelled: bool) -> tuple[list[dict[str, Array]], list[Array] | None]:
    """All feeds, and the labels where they are asked for."""
    samples = list(feeds.samples())
    if not labelled:
        return [sample.feed for sample in samples], None
    labels = [sample.labels for sample in samples if sample.labels is not None]
    if len(labels) != len(samples):
        raise CalibrationError(
            "the data have no labels to learn",
            hint="put them under the key __labels__, or learn without: no --labels, no loss that reads them",
        )
    return [sample.feed for sample in samples], [np.asarray(label) for label in labels]


def _several_shapes(feeds: Sequence[Mapping[str, Array]]) -> bool:
    return len({tuple(np.shape(value) for value in feed.values()) for feed in feeds}) > 1
