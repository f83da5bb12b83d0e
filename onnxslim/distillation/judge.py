"""How well a student agrees with its teacher, on samples that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

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
        compared: the term whose values tell how often both agree; default one of classes.
        own: a loss of the user's own, from the values of student and teacher and the labels.
    """

    batches: Sequence[Feed]
    targets: Sequence[Mapping[str, Array]]
    terms: Sequence[Term]
    labels: Sequence[Array] | None = None
    variances: dict[str, float] = field(default_factory=dict)
    compared: Term | None = None
    own: Callable[[Mapping[str, Array], Mapping[str, Array], Array | None], float] | None = None

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
        variances = _variances(engine.terms, targets)
        joined = (
            None
            if labels is None
            else [np.concatenate([np.ravel(labels[i]) for i in group]) for group in groups]
        )
        return cls(batches, targets, engine.terms, joined, variances, engine.compared, engine.measure)

    def of_part(self, engine: Engine) -> Judge:
        """A judge of a part of the student by the same samples; its teacher is asked anew each time."""
        targets = _Asked(engine, self.batches)
        variances = _variances(engine.terms, targets)
        return replace(
            self,
            targets=targets,
            terms=engine.terms,
            variances=variances,
            compared=engine.compared,
            own=engine.measure,
        )

    def look(self, engine: Engine, step: int) -> Look:
        """Run the student as it is."""
        weights = {name: form.value() for name, form in engine.student.forms.items()}
        return self.look_at(lambda feed: engine.own.run(feed, weights), step)

    def look_at(self, run: Callable[[Feed], Mapping[str, Array]], step: int) -> Look:
        """Run whatever gives the student's values."""
        sums = dict.fromkeys((term.name for term in self.terms), 0.0)
        rows, hits = 0, 0.0
        main = self.compared or next((term for term in self.terms if term.kind == "kl"), self.terms[0])
        for number, (batch, target) in enumerate(zip(self.batches, self.targets, strict=True)):
            found = run(batch)
            count = len(next(iter(batch.values()))) if next(iter(batch.values())).ndim else 1
            for term in self.terms:
                if term.kind == "own":
                    assert self.own is not None
                    labels = None if self.labels is None else self.labels[number]
                    sums[term.name] += count * self.own(found, target, labels)
                    continue
                labelled = term.kind == "cross-entropy"
                other = self.labels[number] if labelled and self.labels else target.get(term.target)
                assert other is not None
                value = term.measure(found[term.value], other, self.variances.get(term.name, 1.0))
                sums[term.name] += count * value
            hits += count * _agreement(main, found[main.value], target[main.target])
            rows += count
        return Look(step, {name: total / rows for name, total in sums.items()}, hits / rows)


@dataclass
class _Asked(Sequence[Mapping[str, Array]]):
    """What the teacher says of batches, which may be too much to keep."""

    engine: Engine
    batches: Sequence[Feed]

    def __len__(self) -> int:
        return len(self.batches)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Array]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Array]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Array] | Sequence[Mapping[str, Array]]:
        if isinstance(index, slice):
            return _Asked(self.engine, self.batches[index])
        return self.engine.other.run(self.batches[index])


@dataclass
class _Moments:
    """Of numbers that come array by array.  Source: Chan, Golub and LeVeque, 1979."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # of the distances from the mean

    def add(self, values: Array) -> None:
        exact = np.asarray(values, np.float64)
        count, apart = self.count + exact.size, float(exact.mean()) - self.mean
        self.squares += float(exact.var()) * exact.size + apart**2 * self.count * exact.size / count
        self.mean += apart * exact.size / count
        self.count = count

    def variance(self) -> float:
        return self.squares / self.count or 1.0


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


def _variances(terms: Sequence[Term], targets: Iterable[Mapping[str, Array]]) -> dict[str, float]:
    """Of what the teacher says, for each term that is divided by it."""
    found = {term.name: (term.target, _Moments()) for term in terms if term.kind == "mse"}
    for target in targets if found else ():
        for name, moments in found.values():
            moments.add(target[name])
    return {name: moments.variance() for name, (_, moments) in found.items()}
