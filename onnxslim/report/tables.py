"""The tables of a report as plain rows, shared by the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnxslim.report.report import Report

__all__ = [
    "Table",
    "duration",
    "number",
    "output_table",
    "printable",
    "remarks",
    "size",
    "tables",
    "verification_remarks",
]

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_TIMES = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))
_DECLINES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Table:
    """Title, heads and rows; ``align`` has ``l`` or ``r`` per column, by default text, then quantities."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str = ""

    def __post_init__(self) -> None:
        if not self.align:
            object.__setattr__(self, "align", "l" + "r" * (len(self.head) - 1))


def size(count: float) -> str:
    """Bytes in decimal units.

    Example:
        >>> size(22_900_000), size(512)
        ('22.9 MB', '512 B')
    """
    for unit, factor in _UNITS:
        if count >= factor:
            return (
                f"{count / factor:.3g} {unit}" if count < 999.5 * factor else f"{count / factor:.0f} {unit}"
            )
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    Example:
        >>> duration(0.00123), duration(75)
        ('1.23 ms', '75 s')
    """
    unit, factor = next((u for u in _TIMES if seconds >= u[1]), _TIMES[-1])
    scaled = seconds / factor
    return f"{scaled:.3g} {unit}" if scaled < 999.5 else f"{scaled:.0f} {unit}"


def number(value: object) -> str:
    """A count with thousands separated, a fraction with four digits, ``-`` for what is unknown."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    """One line without control characters; names in a model are whatever its author wanted.

    Example:
        >>> printable("a\\x1b[31m\\nb")
        'a?[31m b'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def tables(report: Report) -> Iterator[Table]:
    """The tables of a report, in reading order; empty ones are left out."""
    for table in (
        _before_after(report),
        _passes(report),
        _tried(report),
        output_table(report.verification or {}),
        _declined(report),
    ):
        if table.rows:
            yield table


def _interval(bounds: object, digits: int = 3) -> str:
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
        return ""
    return f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def _before_after(report: Report) -> Table:
    rows: list[tuple[str, ...]] = []
    for key, label, show in (
        ("nodes", "nodes without Constant", number),
        ("params", "parameters", number),
        ("bytes", "bytes", size),
        ("macs", "MACs", number),
    ):
        before, after = report.before.get(key), report.after.get(key)
        if key == "bytes":  # the files themselves, where there are files
            before = report.input.bytes if report.input else before
            after = report.output.bytes if report.output else after
        if before is None and after is None:
            continue
        ratio = after / before if before and after is not None else None
        rows.append(
            (
                label,
                show(before) if before is not None else "-",
                show(after) if after is not None else "-",
                f"{ratio:.3f}" if ratio is not None else "-",
            )
        )
    if report.latency:
        rows.append(_latency_row(report.latency))
    if report.metric:
        rows.append(_metric_row(report.metric))
    return Table("Model", ("", "before", "after", "after / before"), tuple(rows))


def _latency_row(latency: Mapping[str, Any]) -> tuple[str, ...]:
    before, after, ratio = latency.get("before_ms"), latency.get("after_ms"), latency.get("ratio")
    return (
        "latency",
        duration(before / 1e3) if before is not None else "-",
        duration(after / 1e3) if after is not None else "-",
        (f"{ratio:.3f}" if ratio is not None else "-") + _interval(latency.get("interval")),
    )


def _metric_row(metric: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = metric.get("before"), metric.get("after")
    change = f"{after - before:+.4f}" if before is not None and after is not None else "-"
    samples = f", n={metric['n']}" if metric.get("n") else ""
    return (
        str(metric.get("name", "metric")),
        number(before),
        number(after) + _interval(metric.get("interval"), 4),
        change + samples,
    )


def _passes(report: Report) -> Table:
    rows = []
    for record in report.passes:
        if record.rolled_back is not None:
            effect = f"taken back: {record.rolled_back}"
        elif not record.modified:
            effect = "nothing to do"
        else:
            effect = "changed the model"
        rows.append(
            (
                record.name,
                record.promise,
                f"{-record.nodes_removed:+d}" if record.nodes_removed else "0",
                _signed_size(-record.weight_bytes_removed),
                duration(record.seconds) if record.seconds else "-",
                effect,
            )
        )
    return Table("Passes", ("pass", "promise", "nodes", "weights", "time", "effect"), tuple(rows), "llrrrl")


def _signed_size(count: int) -> str:
    return f"{'-' if count < 0 else '+'}{size(abs(count))}" if count else "0"


def _tried(report: Report) -> Table:
    rows = []
    for trial in report.tried:
        ratio, size_ratio, sqnr = trial.get("ratio"), trial.get("bytes_ratio"), trial.get("sqnr_db")
        rows.append(
            (
                str(trial.get("name", "?")),
                f"{size_ratio:.3f}" if size_ratio is not None else "-",
                (f"{ratio:.3f}" if ratio is not None else "-") + _interval(trial.get("interval")),
                number(trial.get("score")),
                f"{sqnr:.1f} dB" if sqnr is not None else "-",
                "kept" if trial.get("kept") else (trial.get("reason") or "another one is better"),
            )
        )
    return Table(
        "Tried", ("candidate", "bytes ratio", "time ratio", "score", "SQNR", "outcome"), tuple(rows), "lrrrrl"
    )


def output_table(verification: Mapping[str, Any]) -> Table:
    """How far each output of a verification is from the original's."""
    rows = []
    for output in verification.get("outputs") or ():
        sqnr = output.get("sqnr_db")
        rows.append(
            (
                str(output.get("name")),
                number(output.get("max_abs_diff")),
                number(output.get("ref_max")),
                "-" if sqnr is None else (f"{sqnr:.1f} dB" if isinstance(sqnr, float) else str(sqnr)),
                "bit-equal" if output.get("bit_equal") else ("ok" if output.get("ok") else "differs"),
            )
        )
    return Table(
        "Outputs against the original", ("output", "max |d|", "max |ref|", "SQNR", ""), tuple(rows), "lrrrl"
    )


def _declined(report: Report) -> Table:
    groups = report.declined_by_reason()
    rows = [
        (pass_name, reason, str(len(nodes)), nodes[0])
        for (pass_name, reason), nodes in list(groups.items())[:_DECLINES_SHOWN]
    ]
    if len(groups) > _DECLINES_SHOWN:
        rows.append(("...", f"{len(groups) - _DECLINES_SHOWN} more reasons (all in --json)", "", ""))
    return Table("Left alone", ("pass", "reason", "count", "for example"), tuple(rows), "llrl")


def remarks(report: Report) -> Iterator[str]:
    """The sentences under the tables: how the result was checked, and the notes."""
    if report.verification is None:
        changed = not report.passes or any(record.modified for record in report.passes)
        yield "not verified" if changed else "nothing to verify: no pass changed the model"
    else:
        yield from verification_remarks(report.verification)
    if report.latency and report.latency.get("verdict"):
        yield f"verdict on time: {report.latency['verdict']}"
    yield from report.notes


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
