"""Run a model over data and keep what its activations look like.

Feeds are taken in chunks of 16.  Each chunk starts from empty states and chunks are merged in their order,
on one intra-op thread, so that the sums behind the moments are grouped the same way however the chunks are
spread over workers, and whether the run was interrupted or not.  The model runs without optimizations, hence
a tensor's bits do not depend on which others are handed over beside it.  Memory depends on the model and the
largest chunk, not on the number of feeds.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.calibration.checkpoint import Checkpoint, DataDigest, Progress
from onnxslim.calibration.data import DataLike, Feeds, ImageSpec, open_feeds
from onnxslim.calibration.executor import Chunk, Executor, Job, LocalExecutor, Outcome
from onnxslim.calibration.fingerprint import fingerprint
from onnxslim.calibration.plan import FLOAT_TYPES, Plan, Tap, make_plan
from onnxslim.calibration.slices import sliced, tensor_bytes, with_outputs
from onnxslim.calibration.store import Calibration
from onnxslim.errors import CalibrationError, OptionError
from onnxslim.model.io import ModelLike, load
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.framing import BITS
from onnxslim.runtime.providers import resolve
from onnxslim.runtime.values import TensorInfo

__all__ = ["CHUNK", "calibrate"]

_log = logging.getLogger(__name__)

CHUNK = 16

Told = Callable[[int, "int | None"], object]


def calibrate(
    source: ModelLike,
    data: DataLike,
    *,
    tensors: Collection[str] | None = None,
    second_moments: Collection[str] = (),
    samples: int | None = None,
    batch: int | None = None,
    images: ImageSpec | Mapping[str, Any] | str | None = None,
    seed: int = 0,
    workers: int = 1,
    executor: Executor | None = None,
    max_memory: int | None = None,
    providers: Sequence[str] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Told | None = None,
) -> Calibration:
    """Observe range, distribution and moments of a model's activations on data.

    Args:
        source: path, ``ModelProto`` or ``ir.Model``; never changed.
        data: see :func:`onnxslim.calibration.data.open_feeds`, as are ``samples``, ``batch``, ``images``.
        tensors: what to observe; default: every float tensor that depends on the inputs, in the bodies of
            If, Loop and Scan too.  Moments of channels are kept of what is named here; by default of the
            inputs and of what constant weights are multiplied with, for which bias correction needs them.
        second_moments: tensors of which ``X^T X`` over their channels is kept as well: 8 bytes for each pair.
        seed: of random data.
        workers: processes of this machine; their number changes no bit of the result.
        executor: runs the chunks elsewhere, in place of ``workers``.
        max_memory: bytes of activations that one run of the model may hand over; with more of them, the data
            is read and run several times.  Changes no bit of the result.
        providers: onnxruntime's execution providers in order of preference, ``("cuda", "cpu")``.  Not all
            of them compute the same bits twice.
        checkpoint: a file that is kept up to date while this runs, replacing an older one; remove it when the
            result is safe.
        resume: continue from ``checkpoint`` where there is one, to the same bits as without interruption.
        progress: called with the feeds done and their number (None where it is not known), from any thread;
            each pass over the data counts.

    Returns:
        The calibration; what could not be observed is in its ``skipped``, with the reason.

    Raises:
        CalibrationError: the data does not fit the model, the model fails on a sample, or a NaN reaches an
            output; the message names the sample.  Or ``checkpoint`` belongs to another run.
        ModelError: the model is invalid or refused by the runtime.
        OptionError: an option contradicts another, or is out of range.
        ResourceError: a limit of memory or time.

    Example:
        >>> import onnx.parser
        >>> header = '<ir_version: 8, opset_import: ["": 17]>'
        >>> model = onnx.parser.parse_model(header + "g (float[n, 2] x) => (float[n, 2] y) {y = Relu(x)}")
        >>> calibration = calibrate(model, {"x": np.array([[-1, 2]], np.float32)})
        >>> calibration.range("y")
        (0.0, 2.0)
    """
    if executor is not None and workers != 1:
        raise OptionError("both an executor and a number of workers are given")
    if resume and checkpoint is None:
        raise OptionError("there is nothing to resume from", hint="name the checkpoint")
    if max_memory is not None and max_memory < 1:
        raise OptionError(f"the memory must be at least 1 byte, not {max_memory}")
    executor = executor or LocalExecutor(workers)
    names = resolve(providers)
    model = load(source)
    feeds = open_feeds(data, model, samples=samples, batch=batch, images=images, seed=seed)
    if feeds.is_random:
        _log.warning("calibrating on random values: the ranges say little about real data")
    identity = fingerprint(model)
    plan = make_plan(model, tensors, second_moments)
    with open_worker() as worker:
        plan, sizes = _typed(worker, model, plan, [*(tensors or ()), *second_moments])
        run = _Run(executor, model, plan, names, feeds, progress)
        keeper = Checkpoint(
            None if checkpoint is None else Path(checkpoint),
            {
                "model": identity,
                "tensors": [tap.name for tap in (*plan.inputs, *plan.fetches)],
                "second moments": sorted(second_moments),
                "moments": [tap.name for tap in (*plan.inputs, *plan.fetches) if tap.moments],
                "memory limit": max_memory,
                "providers": list(names),
                "onnxruntime": worker.call("onnxslim.runtime.probe:version"),
            },
        )
        kept = keeper.load() if resume else None
        if kept is not None:
            slices = [tuple(tap for tap in plan.fetches if tap.source in part) for part in kept[1]]
        elif max_memory is not None:
            found = tensor_bytes(worker, model, plan.fetches, feeds, sizes)
            slices = sliced(plan.fetches, found, max_memory)
        else:
            slices = [plan.fetches]
        done = run.observe(slices, keeper, kept[0] if kept is not None else Progress())
    unused = {tap.name: "no sample reached it" for tap in plan.fetches if tap.name not in done.states}
    unused |= {name: f"it is {what} in {origin}" for name, (origin, what) in done.rejected.items()}
    return Calibration(
        identity,
        {tap.name: done.states[tap.name] for tap in (*plan.inputs, *plan.fetches) if tap.name in done.states},
        {**plan.skipped, **unused},
        done.samples,
        feeds.description,
        feeds.is_random,
        seed,
        feeds.notes,
    )


def _typed(
    worker: Worker, model: ir.Model, plan: Plan, chosen: Collection[str]
) -> tuple[Plan, dict[str, int]]:
    """The plan without what turns out to hold no floats, and the bytes per element of what does.

    Raises:
        CalibrationError: one of the tensors ``chosen`` holds none, or the model has an odd input.
    """
    everything = with_outputs(model, [tap.source for tap in plan.fetches])
    with worker.load(everything, optimize="none", threads=1) as session:
        for info in session.inputs:
            if info.dtype in BITS:
                raise CalibrationError(f"the input '{info.name}' is {info.dtype}, which is not supported")
        sizes = {info.name: np.dtype(info.dtype).itemsize for info in session.outputs if _is_float(info)}
    for tap in plan.fetches:
        if tap.name in chosen and tap.source not in sizes:
            raise CalibrationError(f"the tensor '{tap.name}' cannot be observed: it holds no floats")
    return replace(plan, fetches=tuple(tap for tap in plan.fetches if tap.source in sizes)), sizes


def _is_float(info: TensorInfo) -> bool:
    return info.kind == "tensor" and info.dtype in FLOAT_TYPES


@dataclass
class _Run:
    """One model going through data, once per slice of its tensors."""

    executor: Executor
    model: ir.Model
    plan: Plan
    providers: tuple[str, ...]
    feeds: Feeds
    progress: Told | None

    def observe(self, slices: Sequence[Sequence[Tap]], keeper: Checkpoint, done: Progress) -> Progress:
        """Everything from where ``done`` stands."""
        counter = _Counter(self.progress, len(self.feeds) * len(slices) if self.feeds.sized else None)
        counter.add(done.samples + (len(self.feeds) * done.passes if self.feeds.sized else 0))
        sources = [[tap.source for tap in part] for part in slices]
        try:
            for number in range(done.passes, len(slices)):
                job = self._job(slices[number], first=number == 0)
                reader = _Reader(self.feeds, done, keeper)
                with closing(self.executor.run(job, reader.chunks(), counter.add)) as outcomes:
                    for outcome in outcomes:
                        done = _merged(done, outcome, reader.marks.popleft())
                        keeper.keep(done, sources)
                whole = reader.whole()
                if number + 1 < len(slices):
                    done = replace(done, passes=number + 1, chunks=0, samples=0, digest="", whole=whole)
                    keeper.keep(done, sources)
        except BaseException:
            keeper.flush()
            raise
        return done

    def _job(self, taps: Sequence[Tap], *, first: bool) -> Job:
        sources = [tap.source for tap in taps]
        request = {
            "inputs": [asdict(tap) for tap in self.plan.inputs] if first else [],
            "fetches": [asdict(tap) for tap in taps],
            "required": [name for name in self.plan.required if name in sources],
        }
        return Job(with_outputs(self.model, sources), request, self.providers)


class _Counter:
    """Adds up what several threads report."""

    def __init__(self, progress: Told | None, total: int | None) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None and count:
                self._progress(self._done, self._total)


class _Reader:
    """The chunks of one pass after those that are done; makes sure that the data is what it was before.

    Attributes:
        marks: for each chunk that was handed out, the digest of the data up to its end.
    """

    def __init__(self, feeds: Feeds, done: Progress, keeper: Checkpoint) -> None:
        self._feeds, self._done, self._keeper = feeds, done, keeper
        self._digest = DataDigest()
        self.marks: deque[str] = deque()

    def chunks(self) -> Iterator[Chunk]:
        samples = iter(self._feeds.samples())
        for index in itertools.count():
            chunk = tuple(itertools.islice(samples, CHUNK))
            for sample in chunk:
                self._digest.add(sample)
            if index < self._done.chunks:
                last = index == self._done.chunks - 1
                if not chunk or (last and self._digest.hexdigest() != self._done.digest):
                    raise self._keeper.refusal("its data differed")
                continue
            if not chunk:
                return
            self.marks.append(self._digest.hexdigest())
            yield Chunk(index, chunk)

    def whole(self) -> str:
        """The digest of all the data, at the end of the pass.

        Raises:
            CalibrationError: the passes before this one had other data.
        """
        whole = self._digest.hexdigest()
        if self._done.whole and whole != self._done.whole:
            raise CalibrationError(
                "the data differs between two passes over it",
                where=self._feeds.description,
                hint="give data that is the same each time it is read, or allow more memory",
            )
        return whole


def _merged(done: Progress, outcome: Outcome, digest: str) -> Progress:
    rejected = {**outcome.rejected, **done.rejected}
    states = {name: state for name, state in done.states.items() if name not in rejected}
    for name, state in outcome.states.items():
        if name not in rejected:
            states[name] = states[name].merge(state) if name in states else state
    return replace(
        done,
        chunks=done.chunks + 1,
        samples=done.samples + outcome.samples,
        digest=digest,
        states=states,
        rejected=rejected,
    )
