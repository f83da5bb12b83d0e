"""Where the chunks of a calibration run: in worker processes here, or wherever an executor sends them.

A chunk's outcome is a function of the job and the chunk alone, so that neither the place nor the number of
processes changes a bit of a calibration.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from onnxslim.calibration.joined import separated
from onnxslim.calibration.observers import TensorState
from onnxslim.calibration.sources.base import Sample
from onnxslim.errors import CalibrationError, OptionError, ResourceError
from onnxslim.runtime.client import RemoteSession, Worker, open_worker
from onnxslim.runtime.sources import RunnableModel

__all__ = ["Chunk", "Executor", "Job", "LocalExecutor", "Outcome"]

OBSERVE = "onnxslim.calibration.observe:observe"

_MESSAGE_BYTES = 128 << 20  # longer chunks travel to the worker in parts, which changes no bit
_MESSAGE_SECONDS = 2.0
_WAITING_BYTES = 256 << 20  # past this, no chunk is read ahead


@dataclass(frozen=True)
class Job:
    """What all chunks have in common.

    Args:
        model: what to run; its outputs are those that ``request`` fetches.
        request: keyword arguments of :func:`onnxslim.calibration.observe.observe`, JSON-able.
        providers: onnxruntime's names, in order of preference.
    """

    model: RunnableModel
    request: Mapping[str, Any]
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Chunk:
    """Successive samples that are observed one after the other, starting from empty states."""

    index: int
    samples: tuple[Sample, ...]

    @property
    def nbytes(self) -> int:
        """Size of the feeds."""
        return sum(map(_size, self.samples))


@dataclass(frozen=True)
class Outcome:
    """What a chunk left.

    Attributes:
        rejected: by tensor, the first sample in which it was not finite, and what it held.
    """

    index: int
    samples: int
    states: dict[str, TensorState] = field(default_factory=dict)
    rejected: dict[str, tuple[str, str]] = field(default_factory=dict)


Outcomes = Generator[Outcome, None, None]


class Executor(Protocol):
    """Runs jobs.

    To run on other machines: send the job there once (:func:`onnxslim.runtime.sources.payload_of` makes bytes
    of its model), load it in a session without optimizations and with one intra-op thread, and call
    ``observe`` on it with the feeds of each chunk, as :class:`LocalExecutor` does; ``separated`` makes states
    of what it answers.
    """

    def run(self, job: Job, chunks: Iterable[Chunk], told: Callable[[int], object]) -> Outcomes:
        """The outcomes of ``chunks``, in their order.

        Chunks are drawn as they are needed, since all together may not fit into memory.  ``told`` is called
        with the number of samples done since the last call, from any thread.  When the generator is closed
        early, what still runs is ended.

        Raises:
            CalibrationError: a sample cannot be used; of several, the first is named.
            ResourceError: a limit of memory or time.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Worker processes of this machine.

    Raises:
        OptionError: fewer than one worker.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise OptionError(f"the number of workers must be at least 1, not {self.workers}")

    def run(self, job: Job, chunks: Iterable[Chunk], told: Callable[[int], object]) -> Outcomes:
        with open_worker() as worker:
            if self.workers == 1:
                with _Observer(worker, job, told, threading.Lock(), threading.Event()) as observer:
                    yield from map(observer.observe, chunks)
            else:
                yield from self._spread(worker, job, chunks, told)

    def _spread(
        self, pattern: Worker, job: Job, chunks: Iterable[Chunk], told: Callable[[int], object]
    ) -> Outcomes:
        stopping, loading = threading.Event(), threading.Lock()
        failures: list[Exception] = []
        idle: queue.SimpleQueue[_Observer] = queue.SimpleQueue()

        def observe(chunk: Chunk) -> Outcome:
            observer = idle.get()
            try:
                return observer.observe(chunk)
            finally:
                idle.put(observer)

        with ExitStack() as stack:
            workers = [Worker(pattern.budget_bytes, pattern.wall_s) for _ in range(self.workers)]
            for worker in workers:
                stack.callback(worker.close)  # for good, once no thread can start its process again
                idle.put(_Observer(worker, job, told, loading, stopping))
            threads = stack.enter_context(ThreadPoolExecutor(self.workers))
            for worker in workers:
                stack.callback(worker.close)  # frees the thread that waits for an answer
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            stack.callback(stopping.set)
            waiting: deque[tuple[Future[Outcome], int]] = deque()
            for chunk in _until_failure(chunks, failures):
                waiting.append((threads.submit(observe, chunk), chunk.nbytes))
                while len(waiting) > self.workers or sum(size for _, size in waiting) > _WAITING_BYTES:
                    yield waiting.popleft()[0].result()
            while waiting:
                yield waiting.popleft()[0].result()
            for failure in failures:
                raise failure


def _until_failure(chunks: Iterable[Chunk], failures: list[Exception]) -> Iterator[Chunk]:
    """The chunks; where reading one fails, those before it come first, as with a single worker."""
    try:
        yield from chunks
    except Exception as error:
        failures.append(error)


class _Observer:
    """One worker process that observes chunks; it loads the model at the first one.

    Args:
        loading: held while the model, which all share, is serialized.
        stopping: set when nobody waits for outcomes any more.
    """

    def __init__(
        self,
        worker: Worker,
        job: Job,
        told: Callable[[int], object],
        loading: threading.Lock,
        stopping: threading.Event,
    ) -> None:
        self._worker = worker
        self._job = job
        self._told = told
        self._loading = loading
        self._stopping = stopping
        self._session: RemoteSession | None = None
        self._seconds = _MESSAGE_SECONDS  # a sample's time, not known yet: the first one travels alone

    def __enter__(self) -> _Observer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._session is not None:
            self._session.close()

    def observe(self, chunk: Chunk) -> Outcome:
        states: dict[str, Any] = {}
        rejected: dict[str, tuple[str, str]] = {}
        rest: Sequence[Sample] = chunk.samples
        while rest:
            part, rest = self._next_message(rest)
            states = self._send(part, states, rejected)
            self._told(len(part))
        found = separated(states) if states else {}
        kept = {name: state for name, state in found.items() if name not in rejected}
        return Outcome(chunk.index, len(chunk.samples), kept, rejected)

    def _next_message(self, samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
        """The samples that travel together: few enough for the progress bar, small enough for memory."""
        most = max(1, int(_MESSAGE_SECONDS / max(self._seconds, 1e-9)))
        size = count = 0
        for sample in samples[:most]:
            size += _size(sample)
            if count and size > _MESSAGE_BYTES:
                break
            count += 1
        return samples[:count], samples[count:]

    def _send(
        self, part: Sequence[Sample], states: dict[str, Any], rejected: dict[str, tuple[str, str]]
    ) -> dict[str, Any]:
        begun = time.monotonic()
        answer = self._call(part, states)
        self._seconds = (time.monotonic() - begun) / len(part)
        if answer["failed"]:
            position, reason = answer["failed"]
            raise CalibrationError(
                f"the model cannot be calibrated on a sample: {reason}",
                where=part[position].origin,
                hint="drop this sample or mend its values",
            )
        for name, (position, what) in answer["rejected"].items():
            rejected.setdefault(name, (part[position].origin, what))
        kept: dict[str, Any] = answer["states"]
        return kept

    def _call(self, part: Sequence[Sample], states: dict[str, Any]) -> dict[str, Any]:
        if self._stopping.is_set():
            raise ResourceError("the calibration was stopped")
        feeds = [sample.feed for sample in part]
        try:
            answer: dict[str, Any] = self._worker.call(
                OBSERVE, feeds, states, session=self._loaded(), **self._job.request
            )
        except ResourceError as error:
            self._session = None
            if len(part) > 1:  # run them one by one, to name the sample
                for sample in part:
                    self._call([sample], {})
            error.where = part[0].origin if len(part) == 1 else f"{part[0].origin} to {part[-1].origin}"
            error.hint = "drop this sample, feed less at a time, or hand over less at once (--max-memory)"
            raise
        return answer

    def _loaded(self) -> RemoteSession:
        if self._session is None:
            with self._loading:
                self._session = self._worker.load(
                    self._job.model,
                    optimize="none",
                    threads=1,
                    providers=self._job.providers,
                    arena=False,
                )
        return self._session


def _size(sample: Sample) -> int:
    return sum(value.nbytes for value in sample.feed.values() if isinstance(value, np.ndarray))
