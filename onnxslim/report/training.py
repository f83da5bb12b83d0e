"""What a distillation did: the curves of its loss and agreement, what was trained, each output before it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from onnxslim.report.markup import Safe, element, join
from onnxslim.report.report import Report
from onnxslim.report.svg import drawing, percent
from onnxslim.report.text import Table, counted, duration, finite, number, size

__all__ = [
    "block_table",
    "curve",
    "looks",
    "sentences",
    "term_table",
    "trained_table",
    "training_output_table",
]

_HEIGHT, _EDGE = 120.0, 8.0  # pixels
_LEFT, _RIGHT = 8.0, 98.0  # per cent of the width


def sentences(report: Report) -> list[str]:
    """How long it took and what was kept.

    Example:
        >>> told = {"steps": 9, "best": 6, "seconds": 2.0, "rate": 0.001, "samples": 4}
        >>> sentences(Report(distillation=told))
        ['9 steps in 2 s on 4 samples at the rate 0.001; what step 6 left was kept']
    """
    found = report.distillation
    if not found:
        return []
    steps = counted(int(found.get("steps") or 0), "step")
    took = f" in {duration(found['seconds'])}" if finite(found.get("seconds")) is not None else ""
    samples = f" on {counted(int(found['samples']), 'sample')}" if found.get("samples") else ""
    rate = f" at the rate {number(found['rate'])}" if finite(found.get("rate")) else ""
    best = found.get("best")
    kept = f"; what step {best:,} left was kept" if best else "; nothing that it found was kept"
    blocks = found.get("blocks") or ()
    each = f", {len(blocks)} blocks one after the other" if blocks else ""
    text = [f"{steps}{took}{samples}{rate}{each}{kept}"]
    if finite(found.get("peak_bytes")) is not None:
        text.append(f"the process that computed held at most {size(found['peak_bytes'])}")
    if found.get("rollbacks"):
        text.append(f"taken back {counted(found['rollbacks'], 'time')}, where the loss was not finite")
    teacher = finite((report.metric or {}).get("teacher"))
    if teacher is not None:
        text.append(f"{(report.metric or {}).get('name')} of the teacher: {number(teacher)}")
    return text


def looks(report: Report, key: str) -> list[tuple[float, float]]:
    """(step, value) of each look at the held-out samples."""
    entries = (report.distillation or {}).get("looks") or ()
    points = ((finite(entry.get("step")), finite(entry.get(key))) for entry in entries)
    return [(step, value) for step, value in points if step is not None and value is not None]


def term_table(report: Report) -> Table:
    """The terms of the loss on held-out samples, before and after."""
    rows = tuple(
        (str(term.get("name")), *(number(term.get(key)) for key in ("weight", "before", "after")))
        for term in (report.distillation or {}).get("terms") or ()
    )
    agreement = looks(report, "agreement")
    best = (report.distillation or {}).get("best")
    if agreement:
        kept = next((value for step, value in agreement if step == best), agreement[0][1])
        rows += (("agreement with the teacher", "-", number(agreement[0][1]), number(kept)),)
    return Table("On held-out samples", ("", "weight", "before", "after"), rows, "lrrr")


def block_table(report: Report) -> Table:
    """The loss of each block on held-out samples, where they were trained one after the other."""
    rows = tuple(
        (
            str(block["value"] or "outputs"),
            *(number(block.get(key)) for key in ("weights", "steps", "rate", "before", "after")),
        )
        for block in (report.distillation or {}).get("blocks") or ()
    )
    return Table("Blocks", ("up to", "weights", "steps", "rate", "loss before", "after"), rows, "lrrrrr")


def trained_table(report: Report) -> Table:
    """How many weights of each form were trained."""
    trained: Sequence[Mapping[str, Any]] = (report.distillation or {}).get("trained") or ()
    weights, elements = Counter[str](), Counter[str]()
    for entry in trained:
        kind = str(entry.get("kind"))
        weights[kind] += 1
        elements[kind] += int(entry.get("elements") or 0)
    rows = tuple((kind, number(count), number(elements[kind])) for kind, count in weights.most_common())
    return Table("Trained", ("stored as", "weights", "elements"), rows, "lrr")


def training_output_table(report: Report) -> Table:
    """Signal to noise of each output against the teacher's, before and after."""
    found = (report.distillation or {}).get("outputs") or ()
    after = {output.get("name"): output for output in (report.verification or {}).get("outputs") or ()}

    def decibels(output: Mapping[str, Any] | None) -> str:
        value = None if output is None else output.get("sqnr_db")
        return "-" if value is None else f"{value:.1f} dB" if isinstance(value, float) else str(value)

    rows = tuple(
        (str(output.get("name")), decibels(output), decibels(after.get(output.get("name"))))
        for output in found
    )
    return Table("Outputs against the teacher's", ("output", "before", "after"), rows, "lrr")


def curve(points: Sequence[tuple[float, float]], best: float | None, title: str, name: str) -> Safe:
    """A value over the steps of a training, with a mark at the step that was kept."""
    if len(points) < 2:
        return Safe("")
    last = max(step for step, _ in points)
    values = [value for _, value in points]
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0

    def x(step: float) -> str:
        return percent(_LEFT + (_RIGHT - _LEFT) * step / (last or 1))

    def y(value: float) -> float:
        return round(_EDGE + (_HEIGHT - 2 * _EDGE) * (high - value) / room, 2)

    parts = [
        element("line", x1=percent(_LEFT), x2=percent(_RIGHT), y1=y(end), y2=y(end), class_="axis")
        for end in dict.fromkeys((low, high))
    ]
    parts += [
        element("text", f"{end:.3g}", x="0%", y=y(end) + 4, text_anchor="start")
        for end in dict.fromkeys((low, high))
    ]
    lines = [
        element("line", x1=x(one[0]), y1=y(one[1]), x2=x(other[0]), y2=y(other[1]))
        for one, other in itertools.pairwise(points)
    ]
    parts.append(element("g", *lines, class_="curve"))
    parts += [
        element("circle", cx=x(step), cy=y(value), r=4.5, class_="point")
        for step, value in points
        if step == best
    ]
    ends = ((0.0, _LEFT, "start", "0"), (last, _RIGHT, "end", f"step {last:,.0f}"))
    parts += [
        element("text", words, x=percent(place), y=_HEIGHT + 12, text_anchor=anchor)
        for _, place, anchor, words in ends
    ]
    return drawing(
        _HEIGHT + 18,
        join(parts),
        title=title,
        desc=f"{points[0][1]:.4g} at first, {points[-1][1]:.4g} at the end",
        name=name,
        kind="curve",
    )
