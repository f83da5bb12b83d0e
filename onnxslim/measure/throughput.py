"""How many answers a second several callers at once get from one session."""

from __future__ import annotations

import math
import random
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxslim.errors import OptionError
from onnxslim.measure.setting import Inputs, Setting
from onnxslim.measure.stats import nested_bootstrap, pooled_median
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.sources import RunnableModel

__all__ = ["Throughput", "measure_throughput"]

_PROCESSES = 3


@dataclass(frozen=True, slots=True)
class Throughput:
    """Calls per second of A and of B (None without one), and their paired ratio B / A: above 1, B is better.

    The interval is at 95 %; a ratio between models that were measured in turn, as for times.
    """

    streams: int
    a: float
    b: float | None
    ratio: float | None
    interval: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def measure_throughput(
    a: RunnableModel,
    b: RunnableModel | None,
    inputs: Inputs,
    streams: int,
    setting: Setting | None = None,
    *,
    budget_s: float = 6.0,
    seed: int = 0,
) -> Throughput:
    """Let ``streams`` callers use one session at once, that of A and that of B in turn.

    Args:
        streams: calling threads.
        budget_s: seconds of measuring, over three processes.

    Raises:
        ModelError: a model does not load.
        OptionError: fewer than one stream.

    Example:
        >>> from onnx.parser import parse_model
        >>> text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
        >>> inputs = Inputs(({"x": np.zeros(2, np.float32)},))
        >>> measure_throughput(parse_model(text), None, inputs, 2, budget_s=0.1).a > 0
        True
    """
    if streams < 1:
        raise OptionError(f"there must be at least one stream, not {streams}")
    chosen = setting or Setting()
    order = random.Random(seed)
    found: list[np.ndarray[Any, Any]] = []
    begun = time.monotonic()
    models = [("A", a)] if b is None else [("A", a), ("B", b)]
    while len(found) < _PROCESSES and (not found or time.monotonic() - begun < 3 * budget_s):
        with open_worker(fresh=True) as worker:
            shuffled = order.sample(models, len(models))
            sessions = {name: chosen.load(worker, name, model) for name, model in shuffled}
            found.append(
                worker.call(
                    "onnxslim.measure.remote.streams:epoch",
                    [chosen.bound(sessions[name]) for name in sorted(sessions)],
                    list(inputs.feeds),
                    streams,
                    budget_s / _PROCESSES,
                    order.getrandbits(32),
                    timeout=600 + 20 * budget_s,
                )
            )
    rates = np.concatenate(found)
    if b is None:
        return Throughput(streams, float(np.median(rates[:, 0])), None, None, None)
    ratios = [np.log(rounds[:, 1] / rounds[:, 0]) for rounds in found]
    low, high = nested_bootstrap(ratios, seed=seed)
    a_rate, b_rate = (float(rate) for rate in np.median(rates, axis=0))
    return Throughput(
        streams, a_rate, b_rate, math.exp(pooled_median(ratios)), (math.exp(low), math.exp(high))
    )
