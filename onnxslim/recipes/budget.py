"""What the user allows and asks for: accuracy budgets, targets and durations, in the form of the options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from onnxslim.errors import OptionError

__all__ = [
    "BYTE_UNITS",
    "Drop",
    "Target",
    "parse_count_target",
    "parse_drop",
    "parse_duration",
    "parse_latency_target",
    "parse_size_target",
]

_NUMBER = r"(?P<number>\d+(?:\.\d*)?|\.\d+)"
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
BYTE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Drop:
    """How much of the metric may be lost: absolute in its units, or relative to the baseline.

    Example:
        >>> Drop(0.01, relative=True).allows(before=0.9, after=0.892)
        True
    """

    value: float
    relative: bool = False

    def floor(self, before: float, resolution: float = 0.0) -> float:
        """The lowest score inside the budget; a loss below ``resolution`` cannot be told from none."""
        return before - max(abs(before) * self.value if self.relative else self.value, resolution)

    def allows(self, before: float, after: float, resolution: float = 0.0) -> bool:
        """Whether ``after`` is inside; ``resolution`` is what one of the counted samples is worth."""
        return after >= self.floor(before, resolution) - 1e-12

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.relative else f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class Target:
    """An upper bound on time (seconds) or size (bytes): a ratio to the original, or absolute."""

    value: float
    kind: Literal["ratio", "absolute"]

    def met(self, value: float, original: float) -> bool:
        """Whether ``value`` is at or under the bound, given the original's value in the same unit."""
        return value <= (self.value * original if self.kind == "ratio" else self.value)


def _match(text: str, units: str, option: str, examples: str) -> re.Match[str]:
    found = re.fullmatch(rf"\s*{_NUMBER}\s*(?P<unit>{units})\s*", text, re.IGNORECASE)
    if found is None:
        raise OptionError(f"{text!r} is no valid value of {option}", hint=f"write it like {examples}")
    return found


def parse_drop(text: str | float | Drop) -> Drop:
    """Read ``--max-drop``: ``0.01`` is absolute, ``1%`` relative to the baseline.

    Raises:
        OptionError: for anything else.

    Example:
        >>> parse_drop("1%")
        Drop(value=0.01, relative=True)
    """
    if isinstance(text, Drop):
        return text
    text = text if isinstance(text, str) else f"{text:.15f}"  # without an exponent
    found = _match(text, "%?", "--max-drop", "0.01 (absolute) or 1% (relative)")
    number = float(found["number"])
    return Drop(number / 100, relative=True) if found["unit"] else Drop(number)


def _parse_target(text: str, units: dict[str, float] | dict[str, int], option: str, examples: str) -> Target:
    found = _match(text, "|".join(["x", *units]), option, examples)
    number, unit = float(found["number"]), found["unit"].lower()
    if number <= 0:
        raise OptionError(f"{option} must be above zero, not {text!r}", hint=f"write it like {examples}")
    return Target(number, "ratio") if unit == "x" else Target(number * units[unit], "absolute")


def parse_latency_target(text: str | Target) -> Target:
    """Read ``--target-latency``: ``0.7x`` is a ratio, ``5ms`` absolute (kept in seconds)."""
    if isinstance(text, Target):
        return text
    return _parse_target(text, _SECONDS, "--target-latency", "0.7x or 5ms")


def parse_size_target(text: str | Target) -> Target:
    """Read ``--target-bytes``: ``0.3x`` is a ratio, ``2MB`` absolute (kept in bytes)."""
    if isinstance(text, Target):
        return text
    return _parse_target(text, BYTE_UNITS, "--target-bytes", "0.3x or 2MB")


def parse_duration(text: str | float, option: str = "--time") -> float:
    """Read a duration in seconds: ``90``, ``90s``, ``10min``, ``1h``.

    Example:
        >>> parse_duration("10min")
        600.0
    """
    found = _match(str(text), "|".join(["", *_SECONDS]), option, "30s or 10min")
    seconds = float(found["number"]) * _SECONDS[found["unit"].lower() or "s"]
    if seconds <= 0:
        raise OptionError(f"{option} must be above zero, not {text!r}", hint="write it like 30s or 10min")
    return seconds


def parse_count_target(text: str | Target, option: str) -> Target:
    """Read ``--target-macs`` and ``--target-params``: ``0.7x`` is a ratio, ``250M`` absolute.

    Example:
        >>> parse_count_target("250M", "--target-macs")
        Target(value=250000000.0, kind='absolute')
    """
    if isinstance(text, Target):
        return text
    return _parse_target(text, {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}, option, "0.7x or 250M")
