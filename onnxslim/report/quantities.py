"""What a report knows about the model before and the model after, one quantity each.

Tables print these and charts draw them, so both show the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onnxslim.report.report import Report
from onnxslim.report.text import Table, bounds, duration, finite, number, ratio, size

__all__ = ["Quantity", "footprint", "model", "quantity_table", "score", "throughput", "transfers"]

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Quantity:
    """One quantity of both models.

    Args:
        label: what it is.
        before, after: None where unknown.
        show: makes text of either.
        paired: the ratio where it was measured as such; default ``after / before``.
        interval: of the ratio.
        spread: the interval of ``after`` itself, in its own unit.
        better: which direction is good news; empty where neither is.
        note: replaces the ratio in text.
    """

    label: str
    before: float | None
    after: float | None
    show: Callable[[Any], str] = number
    paired: float | None = None
    interval: Interval = None
    spread: Interval = None
    better: Literal["lower", "higher", ""] = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """``after / before``."""
        if self.paired is not None:
            return self.paired
        return self.after / self.before if self.before and self.after is not None else None

    @property
    def whisker(self) -> Interval:
        """The interval of ``after`` on the axis of ``before`` and ``after``."""
        if self.spread or not self.interval or not self.before:
            return self.spread
        return (self.interval[0] * self.before, self.interval[1] * self.before)

    def shown(self, value: float | None) -> str:
        """``before`` or ``after`` as text."""
        return "-" if value is None else self.show(value)

    def compared(self) -> str:
        """The ratio with its interval as text."""
        return self.note or ratio(self.ratio, self.interval)


def quantity_table(title: str, found: list[Quantity], single: bool) -> Table:
    """One row for each; for a single model the columns that would stay empty are left out."""
    if single:
        return Table(title, ("", ""), tuple((q.label, q.shown(q.before)) for q in found))
    rows = tuple(
        (
            q.label,
            q.shown(q.before),
            q.shown(q.after) + (_ends(q.spread) if q.spread else ""),
            q.compared(),
        )
        for q in found
    )
    return Table(title, ("", "before", "after", "after / before"), rows)


def _ends(spread: tuple[float, float]) -> str:
    return f" [{spread[0]:.4f}, {spread[1]:.4f}]"


def model(report: Report) -> list[Quantity]:
    """Size, time and accuracy."""
    found = [quantity for quantity in _counts(report) if (quantity.before, quantity.after) != (None, None)]
    if report.latency:
        found.append(_latency(report.latency))
    return [*found, *score(report)]


def _counts(report: Report) -> Iterator[Quantity]:
    before, after = report.before.get, report.after.get
    yield Quantity("nodes without Constant", before("nodes"), after("nodes"))
    yield Quantity("parameters", before("params"), after("params"))
    yield Quantity(
        "bytes",  # of the files themselves, where there are files
        report.input.bytes if report.input else before("bytes"),
        report.output.bytes if report.output else after("bytes"),
        size,
        better="lower",
    )
    yield Quantity("MACs", before("macs"), after("macs"), better="lower")


def _latency(latency: Mapping[str, Any]) -> Quantity:
    before, after = finite(latency.get("before_ms")), finite(latency.get("after_ms"))
    return Quantity(
        "time per call",
        None if before is None else before / 1e3,
        None if after is None else after / 1e3,
        duration,
        finite(latency.get("ratio")),
        bounds(latency.get("interval")),
        better="lower",
    )


def score(report: Report) -> list[Quantity]:
    """What the models score on the task."""
    metric = report.metric
    if not metric:
        return []
    before, after = finite(metric.get("before")), finite(metric.get("after"))
    change = f"{after - before:+.4f}" if before is not None and after is not None else "-"
    note = change + (f", n={metric['n']}" if metric.get("n") else "")
    spread = bounds(metric.get("interval"))
    return [Quantity(str(metric.get("name", "metric")), before, after, spread=spread, note=note)]


def footprint(report: Report) -> list[Quantity]:
    """What it takes to start, and to stay in memory."""
    return _sides(
        report.footprint,
        (
            ("session_s", "session creation", duration),
            ("first_s", "first call", duration),
            ("rss_bytes", "memory added to the process", size),
            ("peak_rss_bytes", "peak memory of the process", size),
            ("arena_bytes", "arena of the provider", size),
        ),
    )


def transfers(report: Report) -> list[Quantity]:
    """Where the time of a call on a device goes."""
    return _sides(
        report.transfers,
        (
            ("to_device_s", "inputs to the device", duration),
            ("compute_s", "computing", duration),
            ("to_host_s", "outputs to the host", duration),
        ),
    )


def _sides(
    found: Mapping[str, Any] | None, rows: tuple[tuple[str, str, Callable[[Any], str]], ...]
) -> list[Quantity]:
    before, after = (dict((found or {}).get(side) or {}) for side in ("before", "after"))
    quantities = [
        Quantity(label, finite(before.get(key)), finite(after.get(key)), show) for key, label, show in rows
    ]
    return [quantity for quantity in quantities if (quantity.before, quantity.after) != (None, None)]


def throughput(report: Report) -> list[Quantity]:
    """Calls per second, for each number of streams."""
    return [
        Quantity(
            f"{entry.get('streams')} stream{'' if entry.get('streams') == 1 else 's'}",
            finite(entry.get("before")),
            finite(entry.get("after")),
            lambda calls: f"{calls:.4g} / s",
            finite(entry.get("ratio")),
            bounds(entry.get("interval")),
            better="higher",
        )
        for entry in report.throughput
    ]
