"""Run a model over data and keep what its activations look like.

Feeds are taken in chunks of 16.  Each chunk starts from empty states and chunks are merged in their order,
on one intra-op thread, so that the sums behind the moments are grouped the same way however the chunks are
spread over workers.  Memory depends on the model and the largest feed, not on the number of feeds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
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
from onnxslim.runtime.values import TensorInfo

__all__ = ["CHUNK", "calibrate"]

_log = logging.getLogger(__name__)

CHUNK = 16
_MESSAGE_BYTES = 128 << 20  # larger chunks travel to the worker in parts
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
        session = worker.load(_with_outputs(model, plan), optimize="basic", threads=1)
        try:
            _check_types(session, tensors or ())
            states, rejected, count = _run(worker, session, plan, feeds, progress)
        finally:
            session.close()
    unused = {name: f"it is {what} in {origin}" for name, (origin, what) in rejected.items()}
    return Calibration(
        identity,
        {name: states[name] for name in [*plan.inputs, *plan.fetches] if name in states},
        {**plan.skipped, **unused},
        count,
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


def _check_types(session: RemoteSession, tensors: Collection[str]) -> None:
    """Types that the model does not declare are known only now."""
    for info in session.outputs:
        if info.name in tensors and not _is_float(info):
            raise CalibrationError(f"the tensor '{info.name}' cannot be observed: it holds no floats")


def _is_float(info: TensorInfo) -> bool:
    return info.kind == "tensor" and info.dtype in FLOAT_TYPES


def _run(
    worker: Worker, session: RemoteSession, plan: Plan, feeds: Feeds, progress: Progress | None
) -> tuple[dict[str, TensorState], dict[str, tuple[str, str]], int]:
    floats = {info.name for info in session.outputs if _is_float(info)}
    request = {
        "inputs": [info.name for info in session.inputs if info.name in plan.inputs],
        "fetches": [name for name in plan.fetches if name in floats],
        "required": list(plan.required),
        "axes": plan.axes,
    }
    total = len(feeds) if feeds.sized else None
    states: dict[str, TensorState] = {}
    rejected: dict[str, tuple[str, str]] = {}
    done = 0
    for chunk in _chunks(feeds):
        found: dict[str, Any] = {}
        for part in _parts(chunk):
            answer = _observe(worker, session, part, found, request)
            if answer["failed"]:
                position, reason = answer["failed"]
                raise CalibrationError(
                    f"the model cannot be calibrated on a sample: {reason}",
                    where=part[position].origin,
                    hint="drop this sample or mend its values",
                )
            for name, (position, what) in answer["rejected"].items():
                rejected.setdefault(name, (part[position].origin, what))
            found = answer["states"]
            done += len(part)
            if progress is not None:
                progress(done, total)
        for name, arrays in found.items():
            state = TensorState.from_arrays(arrays)
            states[name] = states[name].merge(state) if name in states else state
    return {name: state for name, state in states.items() if name not in rejected}, rejected, done


def _observe(
    worker: Worker,
    session: RemoteSession,
    part: list[Sample],
    states: dict[str, Any],
    request: dict[str, Any],
) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = worker.call(
            _OBSERVE, [sample.feed for sample in part], states, session=session, **request
        )
    except ResourceError as error:
        error.where = error.where or f"{part[0].origin} to {part[-1].origin}"
        raise
    return answer


def _chunks(feeds: Feeds) -> Iterator[list[Sample]]:
    chunk: list[Sample] = []
    for sample in feeds.samples():
        chunk.append(sample)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _parts(chunk: list[Sample]) -> Iterator[list[Sample]]:
    part: list[Sample] = []
    size = 0
    for sample in chunk:
        weight = sum(value.nbytes for value in sample.feed.values() if isinstance(value, np.ndarray))
        if part and size + weight > _MESSAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(sample)
        size += weight
    if part:
        yield part
