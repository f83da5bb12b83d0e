"""What a report comes to, in plain words: the sentence that every form of it begins or ends with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onnxslim.report.report import Report
from onnxslim.report.text import bounds, counted, duration, finite, ratio, size
from onnxslim.report.training import sentences

__all__ = [
    "MARGIN",
    "Headline",
    "Tone",
    "headline",
    "is_single",
    "notes",
    "remarks",
    "verification_remarks",
    "verified",
]

MARGIN = 0.02
"""The margin of onnxslim.measure.latency, repeated here because that module loads numpy."""

Tone = Literal["good", "bad", "unsure", "neutral"]
_NOTICEABLE = 0.005  # of the bytes
_TONES: dict[str, Tone] = {"faster": "good", "slower": "bad", "equal": "neutral"}


@dataclass(frozen=True, slots=True)
class Headline:
    """``word: sentence``, with what it rests on; ``tone`` says whether that is good news."""

    tone: Tone
    word: str
    sentence: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.word}: {self.sentence}"


def is_single(report: Report) -> bool:
    """Whether the report is about one model alone, so that nothing in it has an ``after``.

    Example:
        >>> is_single(Report(before={"nodes": 3})), is_single(Report(before={"nodes": 3}, after={"nodes": 2}))
        (True, False)
    """
    if report.after or report.output or report.passes or report.tried:
        return False
    measured = [part for part in (report.latency, report.footprint, report.profile, report.transfers) if part]
    return bool(report.before or measured) and all(part.get("after") is None for part in measured)


def headline(report: Report) -> Headline | None:
    """The sentence about time where time was measured, otherwise about size; None when nothing is known.

    Example:
        >>> found = {"verdict": "faster", "ratio": 0.36, "interval": (0.35, 0.37)}
        >>> str(headline(Report(latency=found)))
        'Faster: a call takes 0.360 times as long as before (95 % interval 0.350 to 0.370)'
    """
    found = (_time(report.latency) if report.latency else None) or _files(report)
    if found is None or not report.gates:
        return found
    verdicts = Counter(str(gate.get("verdict")) for gate in report.gates)
    text = counted(len(report.gates), "gate") + ": "
    text += ", ".join(f"{verdicts[name]} {name}" for name in ("met", "broken", "undecided") if verdicts[name])
    return Headline(found.tone, found.word, found.sentence, (text, *found.details))


def _time(latency: Mapping[str, Any]) -> Headline | None:
    before, after = finite(latency.get("before_ms")), finite(latency.get("after_ms"))
    details = [line for line in (_measured_by(latency), _control(latency)) if line]
    found, verdict = finite(latency.get("ratio")), latency.get("verdict")
    if verdict is None or found is None:
        if before is None:
            return None
        spread = latency.get("before") or {}
        tails = [f"{name} {duration(v)}" for name in ("p90", "p99") if (v := finite(spread.get(name)))]
        text = "a call takes this long in the median" + (f" ({', '.join(tails)})" if tails else "")
        return Headline("neutral", duration(before / 1e3), text, tuple(details))
    ends = bounds(latency.get("interval"))
    interval = f" (95 % interval {ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    sentence = f"a call takes {found:.3f} times as long as before{interval}"
    if verdict == "equal":
        sentence += f", within the margin of {MARGIN:.0%}"
    elif verdict == "inconclusive":
        sentence += ", which allows no claim"
    if before is not None and after is not None:
        details.insert(0, f"median {duration(before / 1e3)} before, {duration(after / 1e3)} after")
    return Headline(_TONES.get(verdict, "unsure"), str(verdict).capitalize(), sentence, tuple(details))


def _measured_by(latency: Mapping[str, Any]) -> str:
    parts = []
    if latency.get("clock"):
        parts.append("CPU time" if latency["clock"] == "cpu" else "wall time")
    if latency.get("threads"):
        parts.append(counted(latency["threads"], "thread"))
    parts += [str(provider) for provider in latency.get("providers") or ()]
    if latency.get("rounds"):
        epochs = f" in {counted(latency['epochs'], 'epoch')}" if latency.get("epochs") else ""
        parts.append(counted(latency["rounds"], "round") + epochs)
    return f"measured by {', '.join(parts)}" if parts else ""


def _control(latency: Mapping[str, Any]) -> str:
    if finite(latency.get("control")) is None:
        return ""
    return (
        f"control, the original against itself: {ratio(latency['control'], latency.get('control_interval'))}"
    )


def _files(report: Report) -> Headline | None:
    before, after = report.before.get("bytes"), report.after.get("bytes")
    if report.input and report.output:
        before, after = report.input.bytes, report.output.bytes
    old, new = report.before.get("nodes"), report.after.get("nodes")
    if before is None or after is None or is_single(report):
        if before is None or not is_single(report):
            return None
        count = f", {counted(old, 'node')}" if old is not None else ""
        return Headline("neutral", size(before), f"the size of the model{count}")
    checked = report.verification or {}
    tone: Tone
    details = tuple(verified(report))[:1]
    if old is None or new is None:
        counts = ""
    elif new == old:
        counts = f", {counted(old, 'node')} as before"
    else:
        counts = f", {counted(old, 'node')} before and {new:,} after"
    if before == after and not any(record.modified for record in report.passes):
        return Headline("neutral", "Unchanged", f"{size(before)}{counts}", details)
    ratio_of_bytes = after / before if before else 1.0
    fewer = old is not None and new is not None and new < old
    if abs(ratio_of_bytes - 1) < _NOTICEABLE:
        word, tone = ("Fewer nodes", "good") if fewer else ("Rewritten", "neutral")
    else:
        word, tone = ("Smaller", "good") if after < before else ("Larger", "bad")
    sentence = f"{size(before)} before, {size(after)} after ({ratio(ratio_of_bytes)} of the bytes){counts}"
    if not checked or not checked.get("verified", True):
        tone = "unsure" if tone == "good" else tone
    elif not checked.get("ok", True):
        tone = "bad"
    return Headline(tone, word, sentence, details)


def remarks(report: Report) -> Iterator[str]:
    """The sentences under the tables: what the headline rests on, how the result was checked, the notes."""
    found = headline(report)
    told = sentences(report)
    yield from dict.fromkeys((*(found.details if found else ()), *told, *verified(report), *notes(report)))


def notes(report: Report) -> tuple[str, ...]:
    """What a reader must not miss, and what makes the measurement suspect; each once."""
    return tuple(dict.fromkeys((*report.notes, *((report.latency or {}).get("diagnosis") or ()))))


def verified(report: Report) -> Iterator[str]:
    """How the result was checked; nothing for a single model, which there is nothing to check against."""
    if report.verification is not None:
        yield from verification_remarks(report.verification)
    elif not is_single(report):
        changed = not report.passes or any(record.modified for record in report.passes)
        yield "not verified" if changed else "nothing to verify: no pass changed the model"


def verification_remarks(verification: Mapping[str, Any]) -> Iterator[str]:
    """What a verification says, and what it could not look at."""
    samples = verification.get("samples")
    how = f" on {samples} {'feed' if samples == 1 else 'feeds'}" if samples else ""
    how += f" ({verification['promise']})" if verification.get("promise") else ""
    if not verification.get("verified", True):
        yield f"not verified: {verification.get('reason') or 'nothing could be compared'}"
    elif verification.get("promise") == "lossy":
        yield f"compared{how}: how far the outputs may be off is a matter of the budget"
    elif verification.get("ok"):
        yield f"verified{how}: the outputs keep their promise"
    else:
        yield f"verification failed{how}: {verification.get('reason') or 'the outputs differ'}"
    for name, reason in (verification.get("unverifiable") or {}).items():
        yield f"output {name} cannot be verified: {reason}"
