"""How well a student agrees with its teacher, on samples that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.distillation.engine import Engine
from onnxslim.distillation.losses import Term
from onnxslim.distillation.samples import Batch, stacked
from onnxslim.measure.metrics import cosine

__all__ = ["Judge", "Look"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]


@dataclass(frozen=True)
class Look:
    """What was seen after a number of steps.

    Attributes:
        step: how many.
        terms: of the loss, each by its name, without weights.
        agreement: share of rows of which student and teacher choose the same class; without classes, the
            mean cosine between their outputs.
        loss: the weighted sum of the terms.
    """

    step: int
    terms: Mapping[str, float]
    agreement: float
    loss: float = 0.0


@dataclass
class Judge:
    """Held-out samples and what the teacher says of them.

    Variations of the samples are looked at too: there are more of them, so that agreement is told more
    finely, and a student that was fitted to the very samples has no advantage on them.

    Args:
        batches: feeds, each of one or several samples.
        targets: the teacher's values on each.
        terms: of the loss.
        labels: of each, where there are some.
        variances: of the teacher's values, by the name of the term.
    """

    batches: Sequence[Feed]
    targets: Sequence[Mapping[str, Array]]
    terms: Sequence[Term]
    labels: Sequence[Array] | None = None
    variances: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        engine: Engine,
        feeds: Sequence[Feed],
        labels: Sequence[Array] | None = None,
        *,
        size: int = 1,
        more: Sequence[Batch] = (),
    ) -> Judge:
        """A judge by these samples, run in batches of ``size`` where their shapes are equal.

        Args:
            more: variations of them, which count as much.
        """
        groups = [*_groups(feeds, size)]
        batches: list[Feed] = [stacked([feeds[i] for i in group]) for group in groups]
        groups += [list(batch.indices) for batch in more]
        batches += [batch.feed for batch in more]
        targets = [engine.other.run(batch) for batch in batches]
        variances = {
            term.name: _variance([target[term.target] for target in targets])
            for term in engine.terms
            if term.kind == "mse"
        }
        joined = (
            None
            if labels is None
            else [np.concatenate([np.ravel(labels[i]) for i in group]) for group in groups]
        )
        return cls(batches, targets, engine.terms, joined, variances)

    def look(self, engine: Engine, step: int) -> Look:
        """Run the student as it is."""
        weights = {name: form.value() for name, form in engine.student.forms.items()}
        return self.look_at(lambda feed: engine.own.run(feed, weights), step)

    def look_at(self, run: Callable[[Feed], Mapping[str, Array]], step: int) -> Look:
        """Run whatever gives the student's values."""
        sums = dict.fromkeys((term.name for term in self.terms), 0.0)
        rows, hits = 0, 0.0
        main = next((term for term in self.terms if term.kind == "kl"), self.terms[0])
        for number, (batch, target) in enumerate(zip(self.batches, self.targets, strict=True)):
            found = run(batch)
            count = len(next(iter(batch.values()))) if next(iter(batch.values())).ndim else 1
            for term in self.terms:
                labelled = term.kind == "cross-entropy"
                other = self.labels[number] if labelled and self.labels else target.get(term.target)
                assert other is not None
                value = term.measure(found[term.value], other, self.variances.get(term.name, 1.0))
                sums[term.name] += count * value
            hits += count * _agreement(main, found[main.value], target[main.target])
            rows += count
        return Look(step, {name: total / rows for name, total in sums.items()}, hits / rows)


def _agreement(term: Term, student: Array, teacher: Array) -> float:
    if not np.isfinite(student).all():
        return 0.0
    if term.kind == "kl":
        return float(np.mean(student.argmax(term.axis) == teacher.argmax(term.axis)))
    if student.ndim < 2:
        return cosine(teacher, student)
    return float(np.mean([cosine(one, other) for one, other in zip(teacher, student, strict=True)]))


def _groups(feeds: Sequence[Feed], size: int) -> Iterator[list[int]]:
    """Indices of feeds of equal shapes, at most ``size`` at a time."""
    found: dict[object, list[int]] = {}
    for number, feed in enumerate(feeds):
        key = tuple((name, value.shape[1:]) for name, value in sorted(feed.items()))
        found.setdefault(key if size > 1 else number, []).append(number)
    for bucket in found.values():
        yield from (bucket[at : at + size] for at in range(0, len(bucket), size))


def _variance(values: Sequence[Array]) -> float:
    joined = np.concatenate([np.ravel(value).astype(np.float64) for value in values])
    return float(joined.var()) or 1.0
