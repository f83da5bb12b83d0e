"""Gates for continuous integration: what of a comparison must not happen, as ``slower>5%``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxslim.errors import OptionError
from onnxslim.recipes.budget import BYTE_UNITS
from onnxslim.report.report import Report

__all__ = ["Gate", "parse_gate"]

# what can be asked for, and how it is written
_EXAMPLES = {
    "slower": "slower>5%",
    "bytes": "bytes>+0, bytes>5% or bytes>2MB",
    "nodes": "nodes>+0",
    "memory": "memory>10%",
    "drop": "drop>1% or drop>0.01",
    "sqnr": "sqnr<20",
}
_UNITS: dict[str, Mapping[str, float]] = {"bytes": BYTE_UNITS, "memory": BYTE_UNITS, "sqnr": {"db": 1}}
_FORM = re.compile(
    r"\s*(?P<name>[a-z]+)\s*(?P<side>[<>])\s*(?P<plus>\+?)(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>%|[a-z]*)\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition under which a comparison fails.

    Attributes:
        text: as it was asked for.
        name: ``slower``, ``bytes``, ``nodes``, ``memory``, ``drop`` or ``sqnr``.
        limit: what B may reach; ``relative`` to A (a share of it), ``added`` to A, or absolute.
    """

    text: str
    name: str
    limit: float
    relative: bool = False
    added: bool = False

    def judge(self, report: Report) -> dict[str, Any]:
        """``gate``, ``verdict`` (``met``, ``broken``, ``undecided``) and ``found``, a sentence."""
        verdict, found = getattr(self, f"_{self.name}")(report)
        return {"gate": self.text, "verdict": verdict, "found": found}

    def _slower(self, report: Report) -> tuple[str, str]:
        """Broken only when the whole interval lies beyond the limit, met when none of it does."""
        latency = report.latency or {}
        (low, high), bound = latency["interval"], 1 + self.limit
        found = f"time ratio {latency['ratio']:.3f} [{low:.3f}, {high:.3f}]"
        verdict = "broken" if low > bound else "met" if high <= bound else "undecided"
        if not latency["reliable"]:
            verdict = "undecided"
        if verdict == "undecided" and latency["diagnosis"]:
            found += f"; {latency['diagnosis'][0]}"
        return verdict, found

    def _bytes(self, report: Report) -> tuple[str, str]:
        before, after = (
            file.bytes if file is not None else counts["bytes"]
            for file, counts in ((report.input, report.before), (report.output, report.after))
        )
        return self._count(before, after, "bytes")

    def _nodes(self, report: Report) -> tuple[str, str]:
        return self._count(report.before["nodes"], report.after["nodes"], "nodes")

    def _memory(self, report: Report) -> tuple[str, str]:
        found = report.footprint or {}
        before, after = ((found.get(side) or {}).get("rss_bytes") for side in ("before", "after"))
        if before is None or after is None:
            return "undecided", "this system does not tell how much memory a process holds"
        return self._count(before, after, "bytes of memory")

    def _count(self, before: float, after: float, what: str) -> tuple[str, str]:
        bound = before * (1 + self.limit) if self.relative else before * self.added + self.limit
        return "broken" if after > bound else "met", f"{before:.0f} {what} before, {after:.0f} after"

    def _drop(self, report: Report) -> tuple[str, str]:
        metric = report.metric
        if metric is None:
            return "undecided", "there is no metric"
        before, after = float(metric["before"]), float(metric["after"])
        allowed = abs(before) * self.limit if self.relative else self.limit
        found = f"{metric['name']} {before:.4g} before, {after:.4g} after"
        return "broken" if before - after > allowed + 1e-12 else "met", found

    def _sqnr(self, report: Report) -> tuple[str, str]:
        outputs = (report.verification or {}).get("outputs") or ()
        if not outputs:
            return "undecided", "no output could be compared"
        worst = min(outputs, key=lambda output: float(output["sqnr_db"]))
        found = f"{float(worst['sqnr_db']):.1f} dB at output {worst['name']}"
        return "broken" if float(worst["sqnr_db"]) < self.limit else "met", found


def parse_gate(text: str) -> Gate:
    """Read ``--fail-if``.

    ``slower>5%`` fails when B is shown to be more than 5 % slower; ``bytes``, ``nodes`` and ``memory``
    compare with A by a share (``5%``), a difference (``+0``) or not at all (``2MB``); ``drop`` is what the
    metric lost, relative (``1%``) or absolute (``0.01``); ``sqnr<20`` is the worst output's, in decibels.

    Raises:
        OptionError: for anything else.

    Example:
        >>> parse_gate("slower>5%")
        Gate(text='slower>5%', name='slower', limit=0.05, relative=True, added=False)
    """
    found = _FORM.fullmatch(text)
    name = found["name"].lower() if found else text.partition(">")[0].strip().lower()
    if name not in _EXAMPLES:
        close = difflib.get_close_matches(name, _EXAMPLES, 1)
        hint = f"did you mean {_EXAMPLES[close[0]]}?" if close else f"one of {', '.join(_EXAMPLES)}"
        raise OptionError(f"there is no gate {text!r}", hint=hint)
    hint = f"write it like {_EXAMPLES[name]}"
    if found is None or (found["side"] == "<") != (name == "sqnr"):
        raise OptionError(f"{text!r} is no gate", hint=hint)
    number, unit, plus = float(found["number"]), found["unit"].lower(), bool(found["plus"])
    if unit == "%":
        if name == "sqnr" or plus:
            raise OptionError(f"{text!r} is no gate", hint=hint)
        return Gate(text, name, number / 100, relative=True)
    units: Mapping[str, float] = (
        BYTE_UNITS if name in ("bytes", "memory") else {"db": 1} if name == "sqnr" else {}
    )
    if name == "slower" or (unit and unit not in units) or (plus and name in ("drop", "sqnr")):
        raise OptionError(f"{text!r} is no gate", hint=hint)
    return Gate(text, name, number * units.get(unit, 1), added=plus)
