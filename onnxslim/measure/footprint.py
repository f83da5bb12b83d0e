"""What a model costs a process of its own: creating the session, the first call, memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxslim.measure.setting import Inputs, Setting, naming
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.sources import RunnableModel, payload_of

__all__ = ["Footprint", "measure_footprint"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Medians over processes that did nothing else.

    Attributes:
        session_s: seconds to create a session, onnxruntime's optimizations included.
        first_s: seconds of the first call.
        rss_bytes: resident memory that session and calls add to a process.
        peak_rss_bytes: the most that the whole process held.
        arena_bytes: held by onnxruntime's arena.  Bytes are None where nobody tells.
    """

    session_s: float
    first_s: float
    rss_bytes: int | None
    peak_rss_bytes: int | None
    arena_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def measure_footprint(
    model: RunnableModel,
    inputs: Inputs,
    setting: Setting | None = None,
    *,
    processes: int = 3,
    name: str = "A",
) -> Footprint:
    """Start a model in several fresh processes, one after another.

    Args:
        model: best the path of a file: a message in memory would count as the process's own.
        inputs: the first feed is used.
        name: of the model, in errors.

    Raises:
        ModelError: the model does not load or run.

    Example:
        >>> from onnx.parser import parse_model
        >>> text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
        >>> inputs = Inputs(({"x": np.zeros(2, np.float32)},))
        >>> measure_footprint(parse_model(text), inputs, processes=1).session_s > 0
        True
    """
    chosen = setting or Setting()
    found: list[dict[str, Any]] = []
    with payload_of(model) as payload:
        options = {**chosen.options, "dump": None}
        options["config"] = {**options["config"], **payload.config}
        for _ in range(processes):
            with open_worker(fresh=True, limited=chosen.device is None) as worker:
                with naming(name):
                    answer = worker.call(
                        "onnxslim.measure.remote.footprint:footprint",
                        payload.model,
                        dict(inputs.feeds[0]),
                        options,
                        weights=2 * payload.weights,  # the second session, which is profiled, counts too
                    )
                found.append(answer)
    return Footprint(**{name: _median([each[name] for each in found]) for name in found[0]})


def _median(values: list[Any]) -> Any:
    if any(value is None for value in values):
        return None
    middle = float(np.median(values))
    return int(middle) if isinstance(values[0], int) else middle
