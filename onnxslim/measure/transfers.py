"""What a call costs on its way to a device, on the device, and back."""

from __future__ import annotations

from onnxslim.measure.setting import Inputs, Setting
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.sources import RunnableModel

__all__ = ["measure_transfers"]


def measure_transfers(
    model: RunnableModel, inputs: Inputs, setting: Setting, *, seconds: float = 1.0
) -> dict[str, float]:
    """Median seconds of the three parts of a call, each synchronised with the device.

    Returns:
        ``to_device_s``, ``compute_s``, ``to_host_s``.

    Raises:
        ModelError: the model does not load.
    """
    with open_worker(fresh=True) as worker:
        session = setting.load(worker, "A", model)
        found: dict[str, float] = worker.call(
            "onnxslim.measure.remote.transfers:transfers",
            session,
            list(inputs.feeds),
            setting.device or "cpu",
            seconds,
        )
    return found
