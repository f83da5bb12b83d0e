"""Judge rewrites: feeds for which the original runs, and the verification of a candidate on them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from onnxslim._ir import ir
from onnxslim.calibration.data import Feeds, probe_random_feeds
from onnxslim.errors import CalibrationError, ResourceError
from onnxslim.measure.verify import Verification, verify
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import Promise
from onnxslim.runtime.client import RemoteSession, Worker
from onnxslim.runtime.errors import RuntimeRefused

__all__ = ["Prover", "worker_limits"]

Feed = Mapping[str, Any]


class WorkerLimits(TypedDict):
    """Arguments of :func:`~onnxslim.runtime.client.open_worker`."""

    budget_bytes: int
    wall_s: float


def worker_limits(model: ir.Model) -> WorkerLimits:
    """How much memory and time a model of its size may take to be verified; a small bomb gets little."""
    size = serialized_size(model)
    return {"budget_bytes": (640 << 20) + 8 * size, "wall_s": round(5 + size / 20e6, 1)}


@dataclass
class Prover:
    """Verifies candidates against their original; remembers the last verification and what stood in its way.

    Args:
        worker: where the models run.
        feeds: the user's data, or None for random feeds drawn by the input types.
        limit_bytes: models above this size are not verified (both would have to be in memory).
        seed: of the random feeds.
        samples: how many feeds.
    """

    worker: Worker
    feeds: Iterable[Feed] | None = None
    limit_bytes: int = 10**9
    seed: int = 0
    samples: int = 2
    last: Verification | None = None
    notes: list[str] = field(default_factory=list)

    def __call__(self, original: ir.Model, candidate: ir.Model, promise: Promise) -> str | None:
        """None when the promise holds or nothing can be said (see ``notes``), else what differs."""
        self.last = None
        size = serialized_size(original)
        if size > self.limit_bytes:
            self._note(
                f"not verified: the model has {size / 1e9:.1f} GB, more than --verify-limit "
                f"({self.limit_bytes / 1e9:.1f} GB)"
            )
            return None
        feeds: Iterable[Feed] | None
        if self.feeds is not None:
            feeds = list(itertools.islice(self.feeds, self.samples))
        else:
            try:
                session = self.worker.load(candidate, optimize="none")
            except (RuntimeRefused, ResourceError) as error:
                return self._refused(original, error.what)
            with contextlib.closing(session):
                feeds = self._probe(session)
        if feeds is None:
            return None
        found = verify(original, candidate, feeds, promise=promise, worker=self.worker)
        if not found.verified:
            self._note(f"not verified: {found.reason}")
            return None
        self.last = found
        return None if self.last.ok else self.last.reason or "the outputs differ"

    def _refused(self, original: ir.Model, reason: str) -> str | None:
        """The candidate does not load: a broken promise, unless the original does not load either."""
        try:
            self.worker.load(original, optimize="none").close()
        except (RuntimeRefused, ResourceError) as error:
            self._note(f"not verified: onnxruntime does not load the original: {error.what}")
            return None
        return f"onnxruntime no longer loads the model: {reason}"

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _probe(self, session: RemoteSession) -> Feeds | None:
        """Random feeds on which the model runs; larger ones are not tried once the limits were reached."""
        reason = ""

        def accepts(feed: Feed) -> bool:
            nonlocal reason
            try:
                session.run(feed)
            except RuntimeRefused as error:
                reason = error.what
                return False
            return True

        try:
            feeds = probe_random_feeds(session.inputs, accepts, self.samples, self.seed)
        except (ResourceError, CalibrationError) as error:
            feeds, reason = None, error.what
        if feeds is None:
            self._note(f"not verified: the model runs on no random input that was tried: {reason}")
        return feeds
