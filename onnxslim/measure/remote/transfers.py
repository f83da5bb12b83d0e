"""To the device, on the device, and back: the parts of a call apart; runs in the worker process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxslim.runtime.sessions import DeviceRun

__all__ = ["transfers"]

_MOST = 200


def transfers(
    session: ort.InferenceSession, feeds: Sequence[Mapping[str, Any]], device: str, seconds: float
) -> dict[str, float]:
    """Median seconds of copying the inputs to the device, of computing there, and of copying back.

    Each part ends when the device has finished it.
    """
    feed = {name: np.ascontiguousarray(value) for name, value in feeds[0].items()}
    run = DeviceRun(session, feed, device)

    def to_device() -> None:
        for name, value in run.inputs.items():
            value.update_inplace(feed[name])
        run.binding.synchronize_inputs()

    parts: dict[str, Callable[[], Any]] = {
        "to_device_s": to_device,
        "compute_s": run,
        "to_host_s": run.binding.copy_outputs_to_cpu,
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    end = time.perf_counter() + seconds
    for number in range(_MOST + 1):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if number:  # the first round pays for what is set up once
                times[name].append(time.perf_counter() - start)
        if number and time.perf_counter() > end:
            break
    return {name: float(np.median(found)) for name, found in times.items()}
