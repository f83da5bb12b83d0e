"""Run a model over data and keep what its activations look like.

Feeds are taken in chunks of 16.  Each chunk starts from empty states and chunks are merged in their order,
on one intra-op thread, so that the sums behind the moments are grouped the same way however the chunks are
spread over workers.  Memory depends on the model and the largest feed, not on the number of feeds.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.calibration.data import DataLike, Feeds, ImageSpec, open_feeds
from onnxslim.calibration.fingerprint import fingerprint
from onnxslim.calibration.observers import TensorState
from onnxslim.calibration.plan import FLOAT_TYPES, Plan, make_plan
from onnxslim.calibration.sources.base import Sample
from onnxslim.calibration.store import Calibration
from onnxslim.errors import CalibrationError, ResourceError
from onnxslim.model.io import ModelLike, load
from onnxslim.runtime.client import RemoteSession, Worker, open_worker
from onnxslim.runtime.framing import BITS
from onnxslim.runtime.values import TensorInfo

__all__ = ["CHUNK", "calibrate"]

_log = logging.getLogger(__name__)

CHUNK = 16
_MESSAGE_BYTES = 128 << 20  # longer chunks travel to the worker in parts, which changes no bit
_MESSAGE_SECONDS = 2.0
_OBSERVE = "onnxslim.calibration.observe:observe"

Progress = Callable[[int, "int | None"], object]


def calibrate(
    source: ModelLike,
    data: DataLike,
    *,
    tensors: Collection[str] | None = None,
    samples: int | None = None,
    batch: int | None = None,
    images: ImageSpec | Mapping[str, Any] | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Observe range, distribution and moments of a model's activations on data.

    Args:
        source: path, ``ModelProto`` or ``ir.Model``; never changed.
        data: see :func:`onnxslim.calibration.data.open_feeds`, as are ``samples``, ``batch``, ``images``.
        tensors: what to observe; default: every float tensor of the main graph that depends on the inputs.
        seed: of random data.
        progress: called with the feeds done and their number (None where it is not known).

    Returns:
        The calibration; what could not be observed is in its ``skipped``, with the reason.

    Raises:
        CalibrationError: the data does not fit the model, the model fails on a sample, or a NaN reaches an
            output; the message names the sample.
        ModelError: the model is invalid or refused by the runtime.
        ResourceError: a limit of memory or time.

    Example:
        >>> import onnx.parser
        >>> header = '<ir_version: 8, opset_import: ["": 17]>'
        >>> model = onnx.parser.parse_model(header + "g (float[n, 2] x) => (float[n, 2] y) {y = Relu(x)}")
        >>> calibration = calibrate(model, {"x": np.array([[-1, 2]], np.float32)})
        >>> calibration.range("y")
        (0.0, 2.0)
    """
    model = load(source)
    feeds = open_feeds(data, model, samples=samples, batch=batch, images=images, seed=seed)
    if feeds.is_random:
        _log.warning("calibrating on random values: the ranges say little about real data")
    identity = fingerprint(model)
    plan = make_plan(model, tensors)
    with open_worker() as worker:
        run = _Run(worker, _with_outputs(model, plan), plan, tensors or ())
        try:
            run.observe(feeds, progress)
        finally:
            run.session.close()
    unused = {name: f"it is {what} in {origin}" for name, (origin, what) in run.rejected.items()}
    return Calibration(
        identity,
        {name: run.states[name] for name in [*plan.inputs, *plan.fetches] if name in run.states},
        {**plan.skipped, **unused},
        run.done,
        feeds.description,
        feeds.is_random,
        seed,
        feeds.notes,
    )


def _with_outputs(model: ir.Model, plan: Plan) -> ir.Model:
    """``model``, which is ours, with the fetched tensors as further outputs."""
    outputs = {value.name for value in model.graph.outputs}
    wanted = set(plan.fetches) - outputs
    for node in model.graph:
        for value in node.outputs:
            if value.name in wanted:
                value.shape = None  # an annotation that does not hold must not become a promise
                model.graph.outputs.append(value)
    return model


def _is_float(info: TensorInfo) -> bool:
    return info.kind == "tensor" and info.dtype in FLOAT_TYPES


class _Run:
    """One model going through data: the states so far, and what had to be given up."""

    def __init__(self, worker: Worker, model: ir.Model, plan: Plan, chosen: Collection[str]) -> None:
        self._worker = worker
        self._model = model
        self.session = self._load()
        for info in self.session.outputs:  # types that the model does not declare are known only now
            if info.name in chosen and not _is_float(info):
                raise CalibrationError(f"the tensor '{info.name}' cannot be observed: it holds no floats")
        for info in self.session.inputs:
            if info.dtype in BITS:
                raise CalibrationError(f"the input '{info.name}' is {info.dtype}, which is not supported")
        floats = {info.name for info in self.session.outputs if _is_float(info)}
        self._request: dict[str, Any] = {
            "inputs": list(plan.inputs),
            "fetches": [name for name in plan.fetches if name in floats],
            "required": list(plan.required),
            "axes": plan.axes,
        }
        self._seconds = _MESSAGE_SECONDS  # a sample's time, not known yet: the first one travels alone
        self.states: dict[str, TensorState] = {}
        self.rejected: dict[str, tuple[str, str]] = {}
        self.done = 0

    def _load(self) -> RemoteSession:
        return self._worker.load(self._model, optimize="basic", threads=1)

    def observe(self, feeds: Feeds, progress: Progress | None) -> None:
        total = len(feeds) if feeds.sized else None
        samples = iter(feeds.samples())
        while chunk := list(itertools.islice(samples, CHUNK)):
            found: dict[str, Any] = {}
            while chunk:
                part, chunk = self._next_message(chunk)
                found = self._send(part, found)
                self.done += len(part)
                if progress is not None:
                    progress(self.done, total)
            for name, arrays in found.items():
                state = TensorState.from_arrays(arrays)
                self.states[name] = self.states[name].merge(state) if name in self.states else state
        for name in self.rejected:
            self.states.pop(name, None)

    def _next_message(self, chunk: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """The samples that travel together: few enough for the progress bar, small enough for memory."""
        most = max(1, int(_MESSAGE_SECONDS / max(self._seconds, 1e-9)))
        size = count = 0
        for sample in chunk[:most]:
            size += sum(value.nbytes for value in sample.feed.values() if isinstance(value, np.ndarray))
            if count and size > _MESSAGE_BYTES:
                break
            count += 1
        return chunk[:count], chunk[count:]

    def _send(self, part: list[Sample], states: dict[str, Any]) -> dict[str, Any]:
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
            self.rejected.setdefault(name, (part[position].origin, what))
        found: dict[str, Any] = answer["states"]
        return found

    def _call(self, part: list[Sample], states: dict[str, Any]) -> dict[str, Any]:
        feeds = [sample.feed for sample in part]
        try:
            answer: dict[str, Any] = self._worker.call(
                _OBSERVE, feeds, states, session=self.session, **self._request
            )
        except ResourceError as error:
            if len(part) > 1:  # run them one by one, to name the sample
                self.session = self._load()
                for sample in part:
                    self._call([sample], {})
            error.where = part[0].origin if len(part) == 1 else f"{part[0].origin} to {part[-1].origin}"
            error.hint = "drop this sample, or feed less at a time"
            raise
        return answer
