"""Which execution providers there are, and what to install for one that is missing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from onnxslim.errors import DependencyError, OptionError
from onnxslim.runtime.client import open_worker

__all__ = ["Provider", "available", "device_of", "known", "resolve"]


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider of onnxruntime.

    Attributes:
        short: our name for it.
        name: onnxruntime's.
        package: the distribution on the package index that has it; empty where there is none.
        build: the switch of onnxruntime's own build, where there is no package.
        system: the only operating system that it exists on; empty for several.
        device: onnxruntime's name of the memory that inputs and outputs can be bound to, if not the host's.
    """

    short: str
    name: str
    package: str = ""
    build: str = ""
    system: str = ""
    device: str | None = None

    @property
    def remedy(self) -> str:
        """How to get it, where it is missing.

        Example:
            >>> Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu").remedy
            'pip install onnxruntime-gpu'
        """
        found = f"pip install {self.package}" if self.package else f"use onnxruntime built with {self.build}"
        return f"{found} (on {self.system} only)" if self.system else found


_KNOWN = (
    Provider("cpu", "CPUExecutionProvider", "onnxruntime"),
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", device="cuda"),
    Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu", device="cuda"),
    Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino"),
    Provider("directml", "DmlExecutionProvider", "onnxruntime-directml", system="Windows", device="dml"),
    Provider("coreml", "CoreMLExecutionProvider", "onnxruntime", system="macOS"),
    Provider("qnn", "QNNExecutionProvider", "onnxruntime-qnn"),
    Provider("xnnpack", "XnnpackExecutionProvider", build="--use_xnnpack"),
    Provider("webgpu", "WebGpuExecutionProvider", build="--use_webgpu"),
)
_ALIASES = {"dml": "directml"}


def known() -> tuple[Provider, ...]:
    """Every provider that we have a name for, installed or not."""
    return _KNOWN


def device_of(providers: Sequence[str]) -> str | None:
    """The device whose memory the first provider computes in; None where that is the host's.

    Example:
        >>> device_of(["CUDAExecutionProvider", "CPUExecutionProvider"]), device_of(["CPUExecutionProvider"])
        ('cuda', None)
    """
    return next((p.device for p in _KNOWN if providers and p.name == providers[0]), None)


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
            hint = next((p.remedy for p in _KNOWN if p.name == name), "pip install onnxruntime")
            raise DependencyError(
                f"the installed onnxruntime has no {name}", where=f"it has {', '.join(offered)}", hint=hint
            )
    return tuple(dict.fromkeys(full))


@functools.cache
def _lower_names() -> dict[str, str]:
    names = {spelling.lower(): p.name for p in _KNOWN for spelling in (p.short, p.name)}
    return {**names, **{alias: names[short] for alias, short in _ALIASES.items()}}


def _full_name(name: str) -> str:
    found = _lower_names().get(name.strip().lower())
    if found is None and not name.endswith("ExecutionProvider"):
        offered = ", ".join(p.short for p in _KNOWN)
        raise OptionError(f"there is no provider {name!r}", hint=f"one of {offered}")
    return found or name
