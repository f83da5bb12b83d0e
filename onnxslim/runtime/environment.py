"""The record of the machine and the software that decide a measurement.

Read from files of the kernel and from the standard library alone: no process is started, nothing heavy is
imported, and what cannot be found out is left out.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["INTEGER_FEATURES", "RUNTIMES", "environment"]

# The instructions that decide which 8-bit kernels onnxruntime takes, as /proc/cpuinfo calls them.
INTEGER_FEATURES = (
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_int8",
    "asimddp",
    "i8mm",
)
_PACKAGES = ("onnxslim-passes", "onnx", "onnx-ir", "onnxruntime", "numpy")
# The distributions that the one module onnxruntime may come from.
RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
)
_ROOT = Path("/")
_ENOUGH = 1 << 14  # bytes of /proc/cpuinfo: the first processor's block; all of them take long on a server
_UNLIMITED = 1 << 60  # what version 1 of control groups says instead of "max"


def environment(root: Path = _ROOT) -> dict[str, Any]:
    """Versions of what decides a result, the processor, its limits and its load at this moment.

    A key is there when its value could be found; it takes a millisecond and never raises.

    Args:
        root: where ``proc``, ``sys`` and the marks of containers lie.

    Returns:
        ``python`` and the versions of packages by their names; ``machine`` and ``kernel``; ``cpu_model``,
        ``cpu_features`` (of :data:`INTEGER_FEATURES`), ``cores`` (logical), ``cores_available`` (to this
        process), ``cpu_limit`` (cores' worth of time that a control group allows), ``governor``;
        ``load_average`` (1, 5 and 15 minutes); ``memory_bytes``, ``memory_available_bytes``,
        ``memory_limit_bytes`` (of a control group); ``virtualization``.

    Example:
        >>> import onnx
        >>> found = environment()
        >>> found["onnx"] == onnx.__version__, found["cores"] >= found.get("cores_available", 1)
        (True, True)
    """
    record: dict[str, Any] = {
        "python": platform.python_version(),
        **_versions(),
        "machine": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        **_processor(root),
        **_cores(root),
        **_memory(root),
    }
    if where := _virtualization(root):
        record["virtualization"] = where
    return {key: value for key, value in record.items() if value is not None}


@functools.cache
def _versions() -> dict[str, str]:
    found = dict.fromkeys(_PACKAGES, "not installed")
    for package in _PACKAGES:
        for distribution in RUNTIMES if package == "onnxruntime" else (package,):
            with contextlib.suppress(PackageNotFoundError):
                number = version(distribution)
                found[package] = number if distribution == package else f"{number} ({distribution})"
                break
    return found


def _text(path: Path) -> str | None:
    """The beginning of a file; None where there is none, or none for us."""
    content = b""
    try:
        with path.open("rb", buffering=0) as file:
            while len(content) < _ENOUGH and (part := file.read(_ENOUGH - len(content))):
                content += part
    except OSError:
        return None
    return content.decode("utf-8", "replace")


def _word(path: Path) -> str | None:
    text = _text(path)
    return text.strip() or None if text is not None else None


def _whole(text: str | None) -> int | None:
    """A non-negative integer of at most 64 bits."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 20 else None


def _processor(root: Path) -> dict[str, Any]:
    text = _text(root / "proc" / "cpuinfo")
    if text is None:
        return {"cpu_features": f"not measured on {platform.system()}"}
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip().lower(), value.strip())
    flags = set(facts.get("flags", facts.get("features", "")).split())
    model = facts.get("model name")
    if model is None and "cpu part" in facts:  # on ARM there are only numbers
        model = f"implementer {facts.get('cpu implementer', '?')} part {facts['cpu part']}"
    return {"cpu_model": model, "cpu_features": [name for name in INTEGER_FEATURES if name in flags]}


def _cores(root: Path) -> dict[str, Any]:
    allowed: Sequence[int] = ()
    with contextlib.suppress(AttributeError, OSError):  # Linux alone has it
        allowed = sorted(os.sched_getaffinity(0))
    load = None
    with contextlib.suppress(AttributeError, OSError):
        load = [round(value, 2) for value in os.getloadavg()]
    first = allowed[0] if allowed else 0
    governor = _word(root / f"sys/devices/system/cpu/cpu{first}/cpufreq/scaling_governor")
    return {
        "cores": os.cpu_count(),
        "cores_available": len(allowed) or None,
        "cpu_limit": _cpu_limit(root),
        "governor": governor,
        "load_average": load,
    }


def _memory(root: Path) -> dict[str, int | None]:
    sizes: dict[str, int] = {}
    for line in (_text(root / "proc" / "meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        kilobytes = _whole(value.replace("kB", "").strip())
        if kilobytes is not None:
            sizes[key] = kilobytes << 10
    total = sizes.get("MemTotal")
    if total is None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    unlimited = min(_UNLIMITED, total or _UNLIMITED)
    found = (
        _whole(_word(folder / name))
        for folder in _groups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    )
    limits = [limit for limit in found if limit is not None and limit < unlimited]
    return {
        "memory_bytes": total,
        "memory_available_bytes": sizes.get("MemAvailable"),
        "memory_limit_bytes": min(limits, default=None),
    }


def _cpu_limit(root: Path) -> float | None:
    """Processors' worth of time that control groups allow, None without a limit."""
    limits = []
    for folder in _groups(root, "cpu"):
        both = (_word(folder / "cpu.max") or "").split()
        if len(both) != 2:
            both = [
                _word(folder / "cpu.cfs_quota_us") or "",
                _word(folder / "cpu.cfs_period_us") or "",
            ]
        quota, period = map(_whole, both)  # "max" and -1 are no numbers here
        if quota is not None and period:
            limits.append(round(quota / period, 3))
    return min(limits, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that bind this process, outer ones included: limits are inherited."""
    mount = root / "sys" / "fs" / "cgroup"
    for line in (_text(root / "proc" / "self" / "cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            bases = [mount, mount / "unified"]  # the latter beside version 1
        elif controller in names.split(","):
            bases = [mount / controller]
        else:
            continue
        inside = PurePosixPath(path)
        if ".." in inside.parts:  # outside of what this namespace shows
            inside = PurePosixPath("/")
        for group in (inside, *inside.parents):
            for base in bases:
                yield base / group.relative_to(group.anchor or ".")


def _virtualization(root: Path) -> str | None:
    found = []
    manager = _word(root / "run/systemd/container")
    if manager is None:
        marks = {"docker": ".dockerenv", "podman": "run/.containerenv"}
        manager = next((name for name, mark in marks.items() if _exists(root / mark)), None)
    if manager is not None:
        found.append(f"container ({manager})")
    kind = _word(root / "sys/hypervisor/type") or _word(root / "sys/class/dmi/id/sys_vendor")
    if "microsoft" in platform.release().lower():
        found.append("virtual machine (WSL)")
    elif "hypervisor" in (_text(root / "proc" / "cpuinfo") or "").split():
        found.append(f"virtual machine ({kind})" if kind else "virtual machine")
    return ", ".join(found) or None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
