"""Groups of channels as a graph: a row for each, as long as it is wide, and arcs to those that it feeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxslim.report.markup import Safe, element
from onnxslim.report.svg import drawing, percent
from onnxslim.report.text import counted

__all__ = ["Box", "group_graph"]

_ROW = 26.0  # pixels
_ARCS = 96.0  # pixels at the left
_WIDEST = 50.0  # per cent of the width


@dataclass(frozen=True, slots=True)
class Box:
    """One group.

    Attributes:
        label: its key.
        size: how many atoms.
        feeds: the places of the groups whose channels are made of these by one weight.
    """

    label: str
    size: int
    feeds: tuple[int, ...] = ()


def group_graph(boxes: Sequence[Box], name: str = "groups") -> Safe:
    """The drawing: arcs to groups further down open to the left.

    Example:
        >>> drawn = group_graph([Box("a", 8, (1,)), Box("b", 4)])
        >>> drawn.count("<path"), drawn.count("<rect")
        (1, 2)
    """
    most = max((box.size for box in boxes), default=1)
    parts: list[Safe] = []
    for place, box in enumerate(boxes):
        top = _ROW * place
        length = percent(max(_WIDEST * box.size / most, 0.2))
        words = f"{box.label}  ({counted(box.size, 'channel')})"
        parts += [_arc(place, target) for target in box.feeds if target < len(boxes)]
        parts += [
            element("rect", x=_ARCS + 6, y=top + 16, width=length, height=5.0, class_="after"),
            element("text", words, x=_ARCS + 6, y=top + 12),
        ]
    edges = sum(len(box.feeds) for box in boxes)
    desc = f"{counted(len(boxes), 'group')}, {counted(edges, 'edge')}"
    return drawing(
        _ROW * len(boxes) + 4, *parts, title="Groups of channels", desc=desc, name=name, kind="graph"
    )


def _arc(start: int, end: int) -> Safe:
    """From the middle of one row to that of another, the wider the further they are apart."""
    above, below = (_ROW * row + 12 for row in (start, end))
    reach = _ARCS - min(14.0 + 7.0 * abs(end - start), _ARCS - 4)
    path = f"M{_ARCS:g} {above:g}C{reach:g} {above:g} {reach:g} {below:g} {_ARCS:g} {below:g}"
    return element("path", d=path, class_="edge")
