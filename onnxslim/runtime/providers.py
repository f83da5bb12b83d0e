"""Which execution providers there are, and what to install for one that is missing."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from onnxslim.errors import DependencyError, OptionError
from onnxslim.runtime.client import open_worker

__all__ = ["available", "device_of", "resolve"]

# short name -> onnxruntime's name, and the distribution that has it
_KNOWN = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "dml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime"),
    "qnn": ("QNNExecutionProvider", "onnxruntime-qnn"),
    "xnnpack": ("XnnpackExecutionProvider", "onnxruntime built with --use_xnnpack"),
    "webgpu": ("WebGpuExecutionProvider", "onnxruntime built with --use_webgpu"),
}
# whose inputs and outputs can be bound to memory of the device, by onnxruntime's name of that
_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
}


def device_of(providers: Sequence[str]) -> str | None:
    """The device whose memory the first provider computes in; None where that is the host's.

    Example:
        >>> device_of(["CUDAExecutionProvider", "CPUExecutionProvider"]), device_of(["CPUExecutionProvider"])
        ('cuda', None)
    """
    return _DEVICES.get(providers[0]) if providers else None


def available() -> tuple[str, ...]:
    """The providers that the installed onnxruntime offers, by its own names, in its order of preference."""
    with open_worker() as worker:
        return tuple(worker.call("onnxslim.runtime.probe:providers"))


def resolve(names: Sequence[str]) -> tuple[str, ...]:
    """onnxruntime's names for ``names``, which may be short (``cuda``); empty means CPU.

    Raises:
        OptionError: for a name that no provider has.
        DependencyError: for a provider that is not installed; the hint is the pip line.
    """
    full = [_full_name(name) for name in names] or ["CPUExecutionProvider"]
    if full == ["CPUExecutionProvider"]:  # in every build
        return tuple(full)
    offered = available()
    for name in full:
        if name not in offered:
            wanted = next((package for known, package in _KNOWN.values() if known == name), "onnxruntime")
            hint = f"pip install {wanted}" if " " not in wanted else f"use {wanted}"
            raise DependencyError(
                f"the installed onnxruntime has no {name}", where=f"it has {', '.join(offered)}", hint=hint
            )
    return tuple(dict.fromkeys(full))


@functools.cache
def _lower_names() -> dict[str, str]:
    full = {name.lower(): name for name, _ in _KNOWN.values()}
    return {**full, **{short: name for short, (name, _) in _KNOWN.items()}}


def _full_name(name: str) -> str:
    known = _lower_names().get(name.strip().lower())
    if known is None and not name.endswith("ExecutionProvider"):
        raise OptionError(f"there is no provider {name!r}", hint=f"one of {', '.join(_KNOWN)}")
    return known or name
