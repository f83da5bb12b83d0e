"""Scales and the parts of a chart.

Horizontal places are per cent of the width and vertical ones pixels, so a chart fits a phone as well as a
page without scaling its text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from onnxslim.report.markup import Safe, element, join

__all__ = ["LogScale", "axis", "band", "drawing", "percent", "rule"]

_EDGE = 2.0  # per cent kept free on both sides
_GAP = 11.0  # per cent between two ticks at least
_STEPS = (1.0, 2.0, 5.0)
_MANTISSAS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True, slots=True)
class LogScale:
    """A logarithmic axis of ratios: equal factors are equally far apart.

    Example:
        >>> scale = LogScale(0.5, 2.0)
        >>> scale(0.5), scale(1.0), scale(2.0)
        (2.0, 50.0, 98.0)
    """

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float]) -> LogScale:
        """The scale that shows all values, with a little room beside them."""
        found = [value for value in values if value > 0]
        low, high = math.log(min(found)), math.log(max(found))
        room = max(0.05 * (high - low), 0.005)
        return cls(math.exp(low - room), math.exp(high + room))

    def __call__(self, ratio: float) -> float:
        """Per cent of the width; what lies beyond an end is put there."""
        inside = min(max(ratio, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return _EDGE + share * (100 - 2 * _EDGE)

    def ticks(self) -> list[float]:
        """Round ratios that are far enough apart to be labelled."""
        if self.high / self.low < 3:
            return self._even()
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for mantissas in _MANTISSAS:
            found = [m * 10.0**e for e in range(first, last + 1) for m in mantissas]
            found = [tick for tick in found if self.low <= tick <= self.high]
            if all(self(b) - self(a) >= _GAP for a, b in itertools.pairwise(found)):
                return found
        return found[:: math.ceil(len(found) / 6)]

    def _even(self) -> list[float]:
        for step in (m * 10.0**e for e in range(-6, 1) for m in _STEPS):
            if self(self.high) - self(max(self.high - step, self.low)) >= _GAP:
                break
        return [
            round(i * step, 9) for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        ]


def percent(value: float) -> str:
    """A horizontal place.

    Example:
        >>> percent(12.345), percent(50)
        ('12.35%', '50%')
    """
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"


def drawing(height: float, *parts: str, title: str, desc: str = "", name: str = "", kind: str = "") -> Safe:
    """A chart as wide as its place; ``name`` makes the ids that tie it to its title and description."""
    labels = [element("title", title, id_=f"{name}-title" if name else None)]
    if desc:
        labels.append(element("desc", desc, id_=f"{name}-desc" if name else None))
    described = f"{name}-title" + (f" {name}-desc" if desc else "") if name else None
    attributes: dict[str, str | float | None] = {"width": "100%", "height": height, "role": "img"}
    return element("svg", *labels, *parts, **attributes, aria_labelledby=described, class_=kind or None)


def band(scale: LogScale, low: float, high: float, top: float, height: float, kind: str) -> Safe:
    """A range of ratios as an area."""
    left, right = scale(low), scale(high)
    return element("rect", x=percent(left), y=top, width=percent(right - left), height=height, class_=kind)


def rule(scale: LogScale, ratio: float, top: float, bottom: float, kind: str) -> Safe:
    """A ratio as an upright line."""
    at = percent(scale(ratio))
    return element("line", x1=at, x2=at, y1=top, y2=bottom, class_=kind)


def axis(scale: LogScale, top: float) -> Safe:
    """The labelled axis, 36 pixels high, with the directions in words."""
    parts = [
        element("line", x1=percent(_EDGE), x2=percent(100 - _EDGE), y1=top + 0.5, y2=top + 0.5, class_="axis")
    ]
    for tick in scale.ticks():
        parts.append(rule(scale, tick, top, top + 5, "axis"))
        parts.append(_label(f"{tick:.6g}", percent(scale(tick)), top + 18, "middle"))
    parts.append(_label("← faster", percent(_EDGE), top + 34, "start"))
    parts.append(_label("slower →", percent(100 - _EDGE), top + 34, "end"))
    return join(parts)


def _label(words: str, x: str, y: float, anchor: str) -> Safe:
    return element("text", words, x=x, y=y, text_anchor=anchor)
