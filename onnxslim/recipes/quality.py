"""Score candidates on held-out feeds: against labels where there are some, else against the original."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.errors import CalibrationError, OptionError, ResourceError
from onnxslim.measure.differences import Difference
from onnxslim.measure.metrics import agreeing, cosine, is_class_like, largest, regret
from onnxslim.recipes.budget import Drop
from onnxslim.runtime.client import Worker
from onnxslim.runtime.errors import RuntimeRefused

__all__ = ["Judge", "Score"]

# Metrics saturate: an embedding at 5 dB may still rank sentences well on a small test.  Below this ratio of
# signal to noise a candidate is not believed, whatever its score.
MIN_SQNR_DB = 10.0
# A budget in the units of a function that only the winner meets says nothing about cosines; then outputs
# that are no classes must be this near to the original's.
MIN_SQNR_UNSEEN_DB = 15.0


@dataclass(frozen=True)
class Score:
    """How a candidate did: ``after`` against ``before`` (the original's own), over ``n`` samples."""

    name: str
    before: float
    after: float
    n: int
    sqnr_db: float
    rejected: str | None


class Judge:
    """Scores models on feeds that nothing was fitted to; the original runs once.

    Labels are compared with the classes of the output; without labels, classes with the original's classes
    where the output holds probabilities, else the output with the original's by its cosine.  For a metric
    that is not known here, classes count by what the original's own probabilities say of them: most of those
    that change were near to a tie, and cost a task little.

    Args:
        worker: where the models run.
        original: what candidates are compared with.
        feeds: the held-out feeds.
        labels: one array per feed, or None.
        drop: what a candidate may lose.
        output: the output that decides; default the first.
        unseen: the budget is in units of a metric that is not known here.

    Raises:
        CalibrationError: the original does not run on the feeds, or the labels do not fit the output.
        OptionError: there is no output of that name.
    """

    def __init__(
        self,
        worker: Worker,
        original: ir.Model,
        feeds: Sequence[Mapping[str, Any]],
        labels: Sequence[Any] | None,
        drop: Drop,
        output: str | None = None,
        *,
        unseen: bool = False,
    ) -> None:
        self._worker, self._feeds, self._labels, self._drop = worker, feeds, labels, drop
        names = [value.name for value in original.graph.outputs]
        if output is not None and output not in names:
            raise OptionError(f"the model has no output {output!r}", hint=f"its outputs are {names}")
        self._output = names.index(output) if output is not None else 0
        try:
            self._reference = self._run(original)
        except (RuntimeRefused, ResourceError) as error:
            raise CalibrationError(f"the model does not run on the data: {error.what}") from error
        decisive = [row[self._output] for row in self._reference]
        numeric = all(isinstance(out, np.ndarray) and out.dtype.kind in "biuf" for out in decisive)
        if labels is not None:
            if not numeric or any(
                np.ndim(out) == 0 or out[..., 0].size != np.size(y)
                for out, y in zip(decisive, labels, strict=True)
            ):
                raise CalibrationError(
                    "the labels do not fit the output: one is needed per row of classes",
                    where=f"output {names[self._output]}",
                    hint="name the output of the classes",
                )
            self._kind = "top1"
        elif numeric and all(map(is_class_like, decisive)):
            self._kind = "expected agreement" if unseen else "agreement"
        else:
            self._kind = "cosine" if numeric else "none"
        self._granted = 1.0  # of what one sample is worth
        self._min_sqnr_db = MIN_SQNR_UNSEEN_DB if unseen and self._kind == "cosine" else MIN_SQNR_DB
        self._bound = not (unseen and self._kind == "cosine")

    @property
    def drop(self) -> Drop:
        """What a candidate may lose."""
        return self._drop

    def score(self, model: ir.Model) -> Score:
        """Run the candidate; a model that does not run is rejected, not an error."""
        try:
            results = self._run(model)
        except (RuntimeRefused, ResourceError) as error:
            return Score(self._kind, 1.0, 0.0, 0, -np.inf, f"does not run: {error.what}")
        differences = self._differences(results)
        mismatch = next((difference.mismatch for difference in differences if difference.mismatch), None)
        if mismatch is not None:
            return Score(self._kind, 1.0, 0.0, 0, -np.inf, f"its outputs are of another kind: {mismatch}")
        noise = min((difference.sqnr_db for difference in differences), default=np.inf)
        before, n, _ = self._value(self._reference)
        after, n, resolution = self._value(results)
        rejected = None
        if self._bound and not self._drop.allows(before, after, self._granted * resolution):
            rejected = f"{self._kind} {after:.4f} on {n} held-out feeds, more than {self._drop} lost"
        elif noise < self._min_sqnr_db:
            rejected = f"too noisy: {noise:.1f} dB on an output, below {self._min_sqnr_db:g} dB"
        return Score(self._kind, before, after, n, float(noise), rejected)

    def stricter(self, min_sqnr_db: float) -> Judge:
        """One who also wants ``min_sqnr_db`` at the noisiest output."""
        other = copy.copy(self)
        other._min_sqnr_db = max(self._min_sqnr_db, min_sqnr_db)
        return other

    def part(self, share: float) -> Judge:
        """One who allows a share of the loss, and of the noise (its power): the rest is for later steps.

        What few samples cannot show is not granted: who goes as far as it allows would find just that.
        """
        other = self.stricter(self._min_sqnr_db + round(-10 * math.log10(share)))
        other._drop = replace(self._drop, value=share * self._drop.value)
        other._granted = 0.0
        return other

    def _run(self, model: ir.Model) -> list[list[Any]]:
        with self._worker.load(model, optimize="all") as session:
            return [session.run(feed) for feed in self._feeds]

    def _differences(self, results: Sequence[Sequence[Any]]) -> list[Difference]:
        """How far each output is from the original's, over all feeds."""
        differences = [Difference() for _ in results[0]]
        for reference, row in zip(self._reference, results, strict=True):
            for difference, one, other in zip(differences, reference, row, strict=True):
                difference.add(one, other)
        return differences

    def _value(self, results: Sequence[Sequence[Any]]) -> tuple[float, int, float]:
        """The score, how many things it counts, and the least difference that so many can show."""
        outputs = [row[self._output] for row in results]
        reference = [row[self._output] for row in self._reference]
        if self._kind == "none":
            return 1.0, len(outputs), 0.0
        if self._kind == "cosine":
            scale = largest(reference)
            cosines = [cosine(a, b, scale) for a, b in zip(reference, outputs, strict=True)]
            return float(np.mean(cosines)), len(cosines), 0.0
        if self._kind == "expected agreement":
            hits = 1 - np.concatenate([regret(a, b) for a, b in zip(reference, outputs, strict=True)])
        elif self._labels is None:
            hits = np.concatenate([agreeing(a, b) for a, b in zip(reference, outputs, strict=True)])
        else:
            pairs = zip(outputs, self._labels, strict=True)
            hits = np.concatenate([out.argmax(-1).ravel() == np.ravel(y) for out, y in pairs])
        return float(hits.mean()), hits.size, 1 / hits.size
