"""Score candidates on held-out feeds: against labels where there are some, else against the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.errors import CalibrationError, OptionError, ResourceError
from onnxslim.measure.differences import Difference
from onnxslim.measure.metrics import cosine, is_class_like
from onnxslim.recipes.budget import Drop
from onnxslim.runtime.client import Worker
from onnxslim.runtime.errors import RuntimeRefused

__all__ = ["Judge", "Score"]

# Metrics saturate: an embedding at 5 dB may still rank sentences well on a small test.  Below this ratio of
# signal to noise a candidate is not believed, whatever its score.
MIN_SQNR_DB = 10.0


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

    Args:
        worker: where the models run.
        original: what candidates are compared with.
        feeds: the held-out feeds.
        labels: one array per feed, or None.
        drop: what a candidate may lose.
        output: the output that decides; default the first.

    Raises:
        CalibrationError: the original does not run on the feeds.
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

    def score(self, model: ir.Model) -> Score:
        """Run the candidate; a model that does not run is rejected, not an error."""
        kind = "top1" if self._labels is not None else "agreement"
        try:
            results = self._run(model)
        except (RuntimeRefused, ResourceError) as error:
            return Score(kind, 1.0, 0.0, 0, -np.inf, f"does not run: {error.what}")
        noise = self._sqnr_db(results)
        before, _ = self._value(self._reference)
        after, n = self._value(results)
        rejected = None
        # n samples cannot resolve less than one of them
        if after < self._drop.floor(before) - 1 / max(n, 1) and not self._drop.allows(before, after):
            rejected = (
                f"{kind} {after:.4f} on {n} held-out samples, more than {self._drop} below {before:.4f}"
            )
        elif noise < MIN_SQNR_DB:
            rejected = f"too noisy: {noise:.1f} dB on an output, below {MIN_SQNR_DB:g} dB"
        return Score(kind, before, after, n, float(noise), rejected)

    def _run(self, model: ir.Model) -> list[list[Any]]:
        with self._worker.load(model, optimize="all") as session:
            return [session.run(feed) for feed in self._feeds]

    def _sqnr_db(self, results: Sequence[Sequence[Any]]) -> float:
        """Signal to noise of the worst output, over all feeds."""
        differences = [Difference() for _ in results[0]]
        for reference, row in zip(self._reference, results, strict=True):
            for difference, one, other in zip(differences, reference, row, strict=True):
                difference.add(one, other)
        return min((difference.sqnr_db for difference in differences), default=np.inf)

    def _value(self, results: Sequence[Sequence[Any]]) -> tuple[float, int]:
        """The score and the number of things counted (of mean cosines: none is lost to resolution)."""
        outputs = [np.asarray(row[self._output]) for row in results]
        if self._labels is not None:
            hits = np.concatenate(
                [
                    (out.argmax(-1).ravel() == np.ravel(y))
                    for out, y in zip(outputs, self._labels, strict=True)
                ]
            )
            return float(hits.mean()), hits.size
        reference = [np.asarray(row[self._output]) for row in self._reference]
        if all(map(is_class_like, reference)):
            same = np.concatenate(
                [(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in zip(reference, outputs, strict=True)]
            )
            return float(same.mean()), same.size
        return float(np.mean([cosine(a, b) for a, b in zip(reference, outputs, strict=True)])), 10**9
