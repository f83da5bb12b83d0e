"""What runs in the worker: the teacher, the student with its weights as inputs, and the training step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.extract import extract
from onnxslim.analysis.memory import memory
from onnxslim.distillation._facts import Refined
from onnxslim.distillation.gradient import Gradient, differentiate
from onnxslim.distillation.losses import Term, append_loss
from onnxslim.distillation.own_loss import OwnLoss
from onnxslim.distillation.pieces import first_of, fitting, in_pieces, pieces, samples_of
from onnxslim.distillation.samples import stacked
from onnxslim.distillation.students import Student
from onnxslim.errors import ModelError, ResourceError
from onnxslim.model import edit
from onnxslim.passes.fold_constants import FoldConstants
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.runtime.client import Provider, RemoteSession, Worker
from onnxslim.runtime.errors import RuntimeRefused

__all__ = ["Engine", "Observed", "stackable"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

SESSIONS = 16  # of steps, for as many shapes of inputs; each takes tens of megabytes
_OPSET = 13  # from which on a softmax is one along one axis
_CLOSE = 1e-3
_FEW = 64  # integers that may be sizes


@dataclass
class Observed:
    """A model that gives some of its values; weights may be given to it.

    Attributes:
        names: of the values.
        entry: what computes the inputs of a part of a model from those of the whole.
        size: samples that are computed at once, at most, and the rows of one; None for all.
    """

    session: RemoteSession
    names: tuple[str, ...]
    entry: Observed | None = None
    size: tuple[int, int] | None = None

    def run(self, feed: Feed, weights: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The values by name."""
        size, rows = self.size or (0, 0)
        samples = samples_of(feed, rows)
        if size >= samples or samples == 1:
            return self._run(feed, weights)
        return in_pieces(lambda part: self._run(part, weights), feed, samples, size)

    def _run(self, feed: Feed, weights: Mapping[str, Array] | None) -> dict[str, Array]:
        feed = _entered(feed, self.entry)
        taken = {info.name for info in self.session.inputs}
        given = {name: value for name, value in {**feed, **(weights or {})}.items() if name in taken}
        return dict(zip(self.names, map(np.asarray, self.session.run(given)), strict=True))


@dataclass
class Engine:
    """The models of one distillation.

    Attributes:
        entry: where the student is a part of a model: what computes its inputs.
        lean: give memory back after each run; slower.
        limit: bytes that the tensors of a step may need; past them, a batch is taken apart.
        strict: a single sample that needs more is refused.
        rows: of each input, for a sample; 0 where they differ, and no batch can be taken apart.
        own_loss: the user's, where there is one.
        unsized: tensors of a step that are not counted where memory is limited: their size is not known.
        compared: the term whose values tell how often student and teacher agree; default one of classes.
        frozen: weights that get no gradient -> why; known after the first step.
    """

    worker: Worker
    student: Student
    teacher: ir.Model
    terms: Sequence[Term]
    threads: int = 1
    providers: Sequence[Provider] = ("CPUExecutionProvider",)
    entry: Observed | None = None
    lean: bool = False
    limit: int | None = None
    strict: bool = True
    rows: int = 0
    own_loss: OwnLoss | None = None
    compared: Term | None = None
    unsized: int = 0
    weights: dict[str, float] = field(default_factory=dict)
    variances: dict[str, float] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    _steps: OrderedDict[object, _Step] = field(default_factory=OrderedDict)
    _sizes: dict[object, int] = field(default_factory=dict)
    _measured: RemoteSession | None = None

    def __post_init__(self) -> None:
        graph = self.student.graph
        outputs = [value.name or "" for value in graph.graph.outputs]
        if self.compared is None:
            self.compared = next((term for term in self.terms if term.kind == "kl"), self.terms[0])
        compared = [*self.terms, self.compared]
        own = tuple(dict.fromkeys([*outputs, *(term.value for term in compared)]))
        known = {value.name for value in self.teacher.graph.outputs}
        targets = [term.target for term in compared if term.kind not in ("cross-entropy", "own")]
        targets += () if self.own_loss is None else self.own_loss.teacher
        other = tuple(dict.fromkeys([*(name for name in outputs if name in known), *targets]))
        part, _ = extract(graph, own)
        _lift(part, self.student.forms)
        self.own = Observed(self.load(part), own, self.entry)
        self.other = Observed(self.load(extract(self.teacher, other)[0]), other)

    def observed(self, model: ir.Model) -> Observed:
        """A model in which the values that are compared have the names of the student's."""
        part, _ = extract(model, self.own.names)
        return Observed(self.load(part), self.own.names)

    def measure(
        self, student: Mapping[str, Array], teacher: Mapping[str, Array], labels: Array | None
    ) -> float:
        """The user's own loss."""
        assert self.own_loss is not None
        if self._measured is None:
            self._measured = self.worker.load(self.own_loss.model, threads=self.threads)
        [found] = self._measured.run(self.own_loss.feed(student, teacher, labels))
        return float(np.asarray(found).reshape(()))

    def close(self) -> None:
        """Give back the memory of all sessions."""
        entry = [] if self.entry is None else [self.entry.session]
        entry += [] if self._measured is None else [self._measured]
        for session in (
            self.own.session,
            self.other.session,
            *entry,
            *(s.session for s in self._steps.values()),
        ):
            session.close()
        self._steps.clear()

    def step(
        self, feed: Feed, targets: Mapping[str, Array], weights: Mapping[str, Array]
    ) -> tuple[float, dict[str, Array]]:
        """The loss of a batch, and the gradient of each weight that has one.

        Args:
            targets: what the teacher says, by the names of the inputs that :func:`append_loss` makes.
        """
        samples, size = samples_of(feed, self.rows), self.plan(feed)
        if size == samples:
            return self._step(feed, targets, weights)
        total, gradients = 0.0, dict[str, Array]()
        for share, part in pieces({**feed, **targets}, samples, size):
            loss, found = self._step(
                {name: part[name] for name in feed}, {name: part[name] for name in targets}, weights
            )
            total += share * loss
            for name, gradient in found.items():
                scaled = np.float32(share) * gradient
                gradients[name] = gradients[name] + scaled if name in gradients else scaled
        return total, gradients

    def plan(self, feed: Feed) -> int:
        """How many samples of a batch are computed at once.

        Raises:
            ResourceError: one alone needs more memory than it may.
        """
        samples, limit = samples_of(feed, self.rows), self.limit
        key = tuple((name, value.shape) for name, value in sorted(feed.items()))
        if limit is None or key in self._sizes:
            return self._sizes.get(key, samples)

        def peak(count: int) -> int:
            part = feed if count == samples else first_of(feed, samples, count)
            model = self._gradient(*self._entered(part), {}).model
            told = memory(model, Refined(model))
            self.unsized = len(told.unknown)
            return told.at_least

        size = fitting(samples, limit, peak)
        if not size and self.strict:
            raise ResourceError(
                f"a training step needs {peak(1) / 1e6:.3g} MB of tensors for one sample, more than the "
                f"{limit / 1e6:.3g} MB that it may",
                hint="allow more with --max-memory, or train --block-wise",
            )
        self._sizes[key] = size = max(size, 1)
        for observed in (self.own, self.other):
            observed.size = min(size, (observed.size or (size,))[0]), self.rows
        return size

    def _entered(self, feed: Feed) -> tuple[Feed, Feed]:
        """The inputs of the student's graph, and those that may be sizes."""
        entered = _entered(feed, self.entry)
        return entered, {
            name: value for name, value in entered.items() if name not in feed and _may_be_sizes(value)
        }

    def _step(
        self, feed: Feed, targets: Mapping[str, Array], weights: Mapping[str, Array]
    ) -> tuple[float, dict[str, Array]]:
        entered, sizes = self._entered(feed)
        shapes = ((name, value.shape) for name, value in sorted({**entered, **targets}.items()))
        key = (*shapes, *((name, value.tobytes()) for name, value in sorted(sizes.items())))
        if key not in self._steps:
            found = self._gradient(entered, sizes, targets)
            if not found.gradients:
                raise ModelError(
                    "no weight of the student has a gradient",
                    where=next(iter(found.frozen.values()), None),
                    hint="the first operator without one is named above",
                )
            outputs = [found.model.graph.outputs[0].name or "", *found.gradients.values()]
            self._steps[key] = _Step(self.load(found.model), outputs, tuple(found.gradients))
            while len(self._steps) > SESSIONS:
                self._steps.popitem(last=False)[1].session.close()
        self._steps.move_to_end(key)
        return self._steps[key].run({**entered, **targets, **weights})

    def _gradient(self, feed: Feed, sizes: Feed, targets: Feed) -> Gradient:
        """The model of a step for inputs, and for what the teacher says, of these shapes."""
        model = edit.copy_of(self.student.graph)
        for value in list(model.graph.inputs):
            name = value.name or ""
            value.shape = ir.Shape(feed[name].shape)
            if name in sizes:  # shapes follow from it
                stored = edit.add_initializer(model.graph, sizes[name], f"{name}_size")
                edit.replace_uses(value, stored)
                model.graph.inputs.remove(value)
        for node in model.graph.all_nodes():
            for value in node.outputs:  # what the file says of them may not fit these inputs
                value.shape = None
        names = _lift(model, self.student.forms)
        FoldConstants()(model)  # what is computed from shapes
        if model.opset_imports.get("", _OPSET) < _OPSET:
            RaiseOpset(_OPSET)(model)
        if self.own_loss is not None:
            RaiseOpset(self.own_loss.opset)(model)
        weights = self.weights or dict.fromkeys((term.name for term in self.terms), 1.0)
        loss = append_loss(model, self.terms, weights, self.variances, self.own_loss)
        for value in model.graph.inputs:
            if (name := value.name or "") in targets:
                value.shape = ir.Shape(targets[name].shape)
        found = differentiate(model, loss, names)
        self.frozen.update(found.frozen)
        return found

    def load(self, model: ir.Model) -> RemoteSession:
        """A session as all of them are."""
        return self.worker.load(
            model, optimize="all", threads=self.threads, providers=self.providers, arena=not self.lean
        )


def _entered(feed: Feed, entry: Observed | None) -> Feed:
    return feed if entry is None else {**feed, **entry.run(feed)}


def _may_be_sizes(value: Array) -> bool:
    """Whether what crosses a cut may say how large tensors are: then a step is built for each content."""
    return value.dtype.kind in "iu" and value.ndim < 2 and value.size <= _FEW


def _lift(model: ir.Model, weights: Iterable[str]) -> list[str]:
    """Make inputs of weights; the names of those that the model has."""
    found = [name for name in weights if name in model.graph.initializers]
    model.graph.inputs.extend(model.graph.initializers.pop(name) for name in found)
    return found


@dataclass
class _Step:
    session: RemoteSession
    outputs: list[str]
    weights: tuple[str, ...]

    def run(self, given: Mapping[str, Array]) -> tuple[float, dict[str, Array]]:
        taken = {info.name for info in self.session.inputs}
        loss, *gradients = self.session.run(
            {name: value for name, value in given.items() if name in taken}, self.outputs
        )
        return float(np.asarray(loss)), {
            name: np.asarray(gradient) for name, gradient in zip(self.weights, gradients, strict=True)
        }


def stackable(run: Callable[[Feed], Mapping[str, Array]], feeds: Sequence[Feed]) -> bool:
    """Whether a model computes for each sample of a batch what it computes for the sample alone.

    Args:
        run: the model.
        feeds: samples; two of equal shapes are tried.
    """
    pair = next(_pairs(feeds), None)
    if pair is None:
        return False
    alone = [run(feed) for feed in pair]
    try:
        together = run(stacked(pair))
    except RuntimeRefused:
        return False
    for name, value in together.items():
        ones = [each[name] for each in alone]
        if any(one.ndim == 0 or not len(one) for one in ones):
            return False
        expected = np.concatenate(ones)
        if value.shape != expected.shape:
            return False
        scale = np.abs(expected).max(initial=0.0)
        if value.dtype.kind == "f" and np.abs(value - expected).max(initial=0.0) > _CLOSE * scale:
            return False
    return True


def _pairs(feeds: Sequence[Feed]) -> Iterator[tuple[Feed, Feed]]:
    seen: dict[object, Feed] = {}
    for feed in feeds:
        if any(value.ndim == 0 for value in feed.values()):
            return
        key = tuple((name, value.shape) for name, value in sorted(feed.items()))
        if key in seen:
            yield seen[key], feed
        seen[key] = feed
