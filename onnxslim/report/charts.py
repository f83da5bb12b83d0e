"""The charts of a report: bars of two models, intervals of ratios, and every round of a measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from onnxslim.report.markup import Safe, element, join
from onnxslim.report.svg import LogScale, axis, band, drawing, percent, rule
from onnxslim.report.text import bounds, counted, duration, finite, ratio
from onnxslim.report.verdict import MARGIN

__all__ = ["Estimate", "Strip", "bars", "interval", "interval_axis", "interval_scale", "strip"]

_LOW, _HIGH = 1 / (1 + MARGIN), 1 + MARGIN
_POINTS = 400  # of each kind that are drawn
_GOLDEN = 0.6180339887498949
_BAR, _BARS_WIDTH = 9, 97.0  # pixels, per cent
_ROW = 34  # pixels of one interval
_STRIPE = 8  # pixels from which on epochs are told apart


def bars(before: float | None, after: float | None, whisker: Any = None, *, most: float = 0.0) -> Safe:
    """Two bars, one over the other, from zero; ``most`` is the value of a full one, by default the larger."""
    ends = bounds(whisker)
    values = [value for value in (before, after, *(ends or ())) if value is not None and value > 0]
    full = max(most, *values) if values else most
    if full <= 0:
        return Safe("")

    def length(value: float) -> float:
        return min(max(value / full, 0.0), 1.0) * _BARS_WIDTH

    parts = [
        element("rect", x=0, y=top, width=percent(length(value)), height=_BAR, class_=kind)
        for value, top, kind in ((before, 3, "before"), (after, 15, "after"))
        if value is not None
    ]
    if ends:
        low, high = (percent(length(end)) for end in ends)
        parts.append(element("line", x1=low, x2=high, y1=19.5, y2=19.5, class_="whisker"))
        parts += [element("line", x1=end, x2=end, y1=15, y2=24, class_="whisker") for end in (low, high)]
    if before is None or after is None:
        words = "one of the two models"
    elif before > 0:
        words = f"after is {after / before:.3g} times before"
    else:
        words = "nothing before"
    return drawing(27, *parts, title=words, kind="bars")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio, its interval, what it is a ratio of, and both medians as text."""

    label: str
    ratio: float
    ends: tuple[float, float] | None
    verdict: str = ""
    before: str = ""
    after: str = ""
    control: bool = False

    @classmethod
    def of(cls, latency: Mapping[str, Any], label: str) -> Estimate | None:
        """``after / before`` of one setting; None where it was not measured."""
        found = finite(latency.get("ratio"))
        if found is None or found <= 0 or latency.get("verdict") is None:
            return None
        times = [finite(latency.get(key)) for key in ("before_ms", "after_ms")]
        before, after = ("-" if time is None else duration(time / 1e3) for time in times)
        return cls(label, found, bounds(latency.get("interval")), str(latency["verdict"]), before, after)

    @classmethod
    def control_of(cls, latency: Mapping[str, Any]) -> Estimate | None:
        """What two sessions of the original differ by."""
        found = finite(latency.get("control"))
        if found is None or found <= 0:
            return None
        ends = bounds(latency.get("control_interval"))
        return cls("original against itself", found, ends, control=True)


def interval_scale(estimates: Sequence[Estimate]) -> LogScale:
    """The common scale of several intervals; the margin is always in sight."""
    return LogScale.around(
        chain((_LOW, 1.0, _HIGH), *((estimate.ratio, *(estimate.ends or ())) for estimate in estimates))
    )


def interval(estimate: Estimate, scale: LogScale) -> Safe:
    """One interval over the margin."""
    middle = _ROW / 2
    kind = "control" if estimate.control else estimate.verdict
    parts = [band(scale, _LOW, _HIGH, 0, _ROW, "margin"), rule(scale, 1.0, 0, _ROW, "unity")]
    if estimate.ends:
        low, high = (percent(scale(end)) for end in estimate.ends)
        parts.append(element("line", x1=low, x2=high, y1=middle, y2=middle, class_="span"))
        parts += [
            element("line", x1=end, x2=end, y1=middle - 5, y2=middle + 5, class_="cap") for end in (low, high)
        ]
    parts.append(element("circle", cx=percent(scale(estimate.ratio)), cy=middle, r=4.5, class_="point"))
    return drawing(
        _ROW,
        element("g", *parts, class_=kind),
        title=f"{estimate.label}: {ratio(estimate.ratio, estimate.ends)}",
        kind="interval",
    )


def interval_axis(scale: LogScale) -> Safe:
    """The axis under several intervals."""
    return drawing(
        40, axis(scale, 1), title="ratio of times, logarithmic; below 1 is faster", kind="interval"
    )


@dataclass(frozen=True, slots=True)
class Strip:
    """The rounds of a measurement as they are drawn: ratios with the number of their epoch.

    Attributes:
        rounds, control: (epoch, ratio) of after / before and of the original against itself.
        found: how many rounds there are, drawn or not.
        epochs: how many.
    """

    rounds: tuple[tuple[int, float], ...]
    control: tuple[tuple[int, float], ...]
    found: int
    epochs: int

    @classmethod
    def of(cls, latency: Mapping[str, Any], most: int = _POINTS) -> Strip | None:
        """At most ``most`` of each kind, evenly over all rounds; None where none were kept."""
        raw = latency.get("raw") or {}
        kinds = [_points(raw.get(kind) or ()) for kind in ("b_over_a", "control")]
        if not any(kinds):
            return None
        epochs = 1 + max(epoch for epoch, _ in chain(*kinds))
        rounds, control = (_evenly(points, most) for points in kinds)
        return cls(rounds, control, max(map(len, kinds)), epochs)

    @property
    def left_out(self) -> int:
        """Rounds that are not drawn."""
        return self.found - max(len(self.rounds), len(self.control))

    def scale(self, estimates: Sequence[Estimate]) -> LogScale:
        """Wide enough for all but the most extreme rounds, and for the intervals."""
        values = [_LOW, _HIGH]
        for estimate in estimates:
            values += [estimate.ratio, *(estimate.ends or ())]
        for points in (self.rounds, self.control):
            ordered = sorted(value for _, value in points)
            if ordered:
                cut = len(ordered) // 50
                values += [ordered[cut], ordered[-1 - cut]]
        return LogScale.around(values)

    def outside(self, scale: LogScale) -> int:
        """How many of the rounds drawn lie beyond an end of the scale."""
        return sum(not scale.low <= value <= scale.high for _, value in chain(self.rounds, self.control))


def _points(epochs: Sequence[Sequence[Any]]) -> list[tuple[int, float]]:
    return [
        (number, math.exp(found))
        for number, rounds in enumerate(epochs)
        for value in rounds
        if (found := finite(value)) is not None and abs(found) < 50
    ]


def _evenly(points: Sequence[tuple[int, float]], most: int) -> tuple[tuple[int, float], ...]:
    if len(points) <= most:
        return tuple(points)
    return tuple(points[i * len(points) // most] for i in range(most))


def strip(found: Strip, estimates: Sequence[Estimate], name: str) -> Safe:
    """Every round as a point: across its ratio, down its epoch, scattered within the epoch's row."""
    scale = found.scale(estimates)
    row = min(max(220 / found.epochs, 2.0), 48.0)
    top, height = 6.0, row * found.epochs
    parts = [
        element("rect", x=0, y=top + row * epoch, width="100%", height=row, class_="epoch")
        for epoch in range(0, found.epochs if row >= _STRIPE else 0, 2)
    ]
    parts.append(band(scale, _LOW, _HIGH, 0, height + 2 * top, "margin"))
    for estimate in estimates:
        kind = "control" if estimate.control else "verdict"
        if estimate.ends:
            parts.append(band(scale, *estimate.ends, 0, height + 2 * top, f"{kind}-band"))
        parts.append(rule(scale, estimate.ratio, 0, height + 2 * top, f"{kind}-line"))
    parts.append(rule(scale, 1.0, 0, height + 2 * top, "unity"))
    for points, kind in ((found.control, "control-round"), (found.rounds, "round")):
        circles = [
            element("circle", cx=percent(scale(value)), cy=top + row * (epoch + _scatter(number)), r=2.2)
            for number, (epoch, value) in enumerate(points)
        ]
        parts.append(element("g", *circles, class_=kind))
    parts.append(axis(scale, height + 2 * top))
    what = f"{counted(found.found, 'round')} in {counted(found.epochs, 'epoch')}, the first epoch at the top"
    about = (
        "after / before and the original against itself" if found.rounds else "the original against itself"
    )
    return drawing(
        height + 2 * top + 40,
        join(parts),
        title=f"Ratio of times in each round: {about}",
        desc=f"{what}; the axis is logarithmic, {scale.low:.3g} to {scale.high:.3g}.",
        name=name,
        kind="strip",
    )


def _scatter(number: int) -> float:
    """Between 0.1 and 0.9, spread evenly, and the same in every run."""
    return 0.1 + 0.8 * (number * _GOLDEN % 1)
