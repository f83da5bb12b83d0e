"""Judge rewrites: feeds for which the original runs, and the verification of a candidate on them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from onnxslim._ir import ir
from onnxslim.analysis.indices import index_limits
from onnxslim.calibration.data import Feeds, Limits, probe_random_feeds
from onnxslim.errors import CalibrationError, ResourceError
from onnxslim.measure.interface import Interface
from onnxslim.measure.verify import Verification, compare_sessions, unverifiable_outputs
from onnxslim.model.sizes import weight_bytes
from onnxslim.passes.base import Promise
from onnxslim.runtime.client import RemoteSession, TensorInfo, Worker
from onnxslim.runtime.errors import RuntimeRefused

__all__ = ["Prover", "running_feeds", "worker_limits"]

Feed = Mapping[str, Any]


class WorkerLimits(TypedDict):
    """Arguments of :func:`~onnxslim.runtime.client.open_worker`."""

    budget_bytes: int
    wall_s: float


def worker_limits(model: ir.Model) -> WorkerLimits:
    """How much memory and time a model of its size may take to be verified; a small bomb gets little."""
    size = weight_bytes(model)
    return {"budget_bytes": (640 << 20) + 8 * size, "wall_s": round(5 + size / 20e6, 1)}


# Weights are not repacked for the kernels: the sessions run once or twice, and weights that a rewrite has
# computed are then treated like those that the original computes as it runs.
_CONFIG = {"session.disable_prepacking": "1"}


@dataclass
class Prover:
    """Verifies candidates against their original; remembers the last verification and what stood in its way.

    Args:
        worker: where the models run.
        feeds: the user's data, or None for random feeds drawn by the input types.
        limit_bytes: models above this size are not verified (both would have to be in memory).
        seed: of the random feeds.
        samples: how many feeds of the user's data.
        random_samples: how many random feeds, where there are no data.
        file: a model and the file that it was loaded from; the worker reads the file itself.
    """

    worker: Worker
    feeds: Iterable[Feed] | None = None
    limit_bytes: int = 10**9
    seed: int = 0
    samples: int = 2
    random_samples: int = 1
    file: tuple[ir.Model, Path] | None = None
    last: Verification | None = None
    notes: list[str] = field(default_factory=list)

    def __call__(self, original: ir.Model, candidate: ir.Model, promise: Promise) -> str | None:
        """None when the promise holds or nothing can be said (see ``notes``), else what differs."""
        self.last = None
        size = weight_bytes(original)
        if size > self.limit_bytes:
            self._note(
                f"the model has {size / 1e9:.1f} GB, more than --verify-limit "
                f"({self.limit_bytes / 1e9:.1f} GB)"
            )
            return None
        with contextlib.ExitStack() as stack:
            try:
                reference = stack.enter_context(self._load_original(original))
            except (RuntimeRefused, ResourceError) as error:
                self._note(f"onnxruntime does not load the original: {error.what}")
                return None
            try:
                rewritten = stack.enter_context(self.worker.load(candidate, config=_CONFIG))
            except (RuntimeRefused, ResourceError) as error:
                return f"onnxruntime no longer loads the model: {error.what}"
            try:
                feeds = self._feeds(original, reference, rewritten)
            except (RuntimeRefused, ResourceError, CalibrationError) as error:
                self._note(f"the model runs on no random input that was tried: {error.what}")
                return None
            found = compare_sessions(
                reference, rewritten, feeds, promise.value, unverifiable_outputs(original)
            )
        if not found.verified:
            self._note(found.reason)
            return None
        self.last = found
        return None if self.last.ok else self.last.reason or "the outputs differ"

    def _load_original(self, model: ir.Model) -> RemoteSession:
        if self.file is not None and self.file[0] is model:
            with contextlib.suppress(RuntimeRefused):  # loading may have mended what the file has wrong
                return self.worker.load(self.file[1], config=_CONFIG)
        return self.worker.load(model, config=_CONFIG)

    def _feeds(
        self, original: ir.Model, reference: RemoteSession, rewritten: RemoteSession
    ) -> Iterable[Feed]:
        """The user's feeds, or random ones that fit both and on which the original runs.

        Raises:
            CalibrationError: an input is no tensor.
            RuntimeRefused: the original runs on no random feed.
            ResourceError: one of them reached the limits; larger ones are not tried.
        """
        if self.feeds is not None:
            return itertools.islice(self.feeds, self.samples)
        own, other = Interface.of(reference), Interface.of(rewritten)

        def adapt(feed: Feed) -> Feed:
            return own.feed(feed, other)

        limits = index_limits(original)
        return running_feeds(reference, rewritten.inputs, self.random_samples, self.seed, limits, adapt)

    def _note(self, reason: str) -> None:
        text = f"not verified: {reason}"
        if text not in self.notes:
            self.notes.append(text)


def running_feeds(
    session: RemoteSession,
    inputs: Sequence[TensorInfo],
    samples: int,
    seed: int = 0,
    limits: Limits | None = None,
    adapt: Callable[[Feed], Feed] = lambda feed: feed,
) -> Feeds:
    """Random feeds for ``inputs`` on which a model really runs.

    Args:
        limits: see :func:`~onnxslim.analysis.indices.index_limits`.
        adapt: brings a feed into the form that the model takes.

    Raises:
        CalibrationError: an input is no tensor.
        RuntimeRefused: the model runs on no feed that was tried.
        ResourceError: one of them reached the limits; larger ones are not tried.
    """
    refusal = RuntimeRefused("its inputs are too large")

    def accepts(feed: Feed) -> bool:
        nonlocal refusal
        try:
            session.run(adapt(feed))
        except RuntimeRefused as error:
            refusal = error
            return False
        return True

    feeds = probe_random_feeds(inputs, accepts, samples, seed, limits=limits)
    if feeds is None:
        raise refusal
    return feeds
