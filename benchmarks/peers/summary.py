"""What the rows say together: the best rivals of each model, and geometric means.

A method that fails on a model, or loses more than a point there, leaves its user with the original: it counts
with 1 for time and bytes.  The best rival is picked for each model by the very figures that it is judged by,
which no single method can reach: a hard line on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.peers.methods import METHODS, OURS
from benchmarks.peers.rows import Row
from benchmarks.writing import markdown

NOT_SLOWER = 1.02
ORIGINAL = "original"
Figures = tuple[float, float]  # time and bytes, over those of the original


def fastest(rivals: Iterable[Row], model: str) -> Row:
    """The fastest result that holds; the original where none is faster."""
    return min([_original(model), *(row for row in rivals if row.holds)], key=lambda row: row.time)


def smallest(rivals: Iterable[Row], model: str) -> Row:
    """The smallest result that holds and is not slower; the original where none is smaller."""
    usable = [row for row in rivals if row.holds and row.time <= NOT_SLOWER]
    return min([_original(model), *usable], key=lambda row: (row.bytes, row.time))


def counted(row: Row) -> Figures:
    """Time and bytes of what the method's user ends up with."""
    return (row.time, row.bytes) if row.holds else (1.0, 1.0)


def geometric_means(figures: Sequence[Figures]) -> Figures:
    """Of times and of bytes.

    Example:
        >>> geometric_means([(0.25, 0.5), (1.0, 0.5)])
        (0.5, 0.5)
    """
    times, sizes = zip(*figures, strict=True)
    return _mean(times), _mean(sizes)


def models(rows: Sequence[Row]) -> str:
    """A line on each model: ours beside the best rivals, as time (bytes, SQNR)."""
    lines = []
    for model, mine, rivals in _by_model(rows):
        best, least = fastest(rivals, model), smallest(rivals, model)
        lines.append(
            (
                model,
                *(_cells(mine) if mine else ("-", "-", "-")),
                best.method,
                *_cells(best),
                least.method,
                *_cells(least),
            )
        )
    figures = ("time", "bytes", "dB")
    header = ("model", *(f"ours: {name}" for name in figures), "fastest rival", *figures)
    return markdown((*header, "smallest rival not slower", *figures), lines)


def means(rows: Sequence[Row]) -> str:
    """A line on ours, the best rivals and each method: geometric means over the models it was run on."""
    groups = _by_model(rows)
    lines = [
        _line("best rival by speed", [fastest(rivals, model) for model, _, rivals in groups if rivals]),
        _line(
            "smallest rival not slower", [smallest(rivals, model) for model, _, rivals in groups if rivals]
        ),
    ]
    for method in METHODS:
        line = _line(method, [row for row in rows if row.method == method])
        lines.insert(0 if method == OURS else len(lines), line)
    header = ("geometric means", "models", "speed-up", "bytes", "failed", "lost", "slower")
    return markdown(header, [line for line in lines if line[1] != "0"])


def _by_model(rows: Sequence[Row]) -> list[tuple[str, Row | None, list[Row]]]:
    groups = []
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        mine = next((row for row in own if row.method == OURS), None)
        groups.append((model, mine, [row for row in own if row.method != OURS]))
    return groups


def _line(title: str, rows: Sequence[Row]) -> tuple[str, ...]:
    time, size = geometric_means([counted(row) for row in rows] or [(1.0, 1.0)])
    failed, lost = sum(bool(row.failure) for row in rows), sum(row.lost for row in rows)
    slower = sum(row.holds and row.time > NOT_SLOWER for row in rows)
    return title, str(len(rows)), f"{1 / time:.3f}", f"{size:.3f}", str(failed), str(lost), str(slower)


def _cells(row: Row) -> tuple[str, str, str]:
    time, size = counted(row)
    return f"{time:.3f}", f"{size:.3f}", f"{row.sqnr_db:.1f}" if row.holds else "-"


def _mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _original(model: str) -> Row:
    return Row(model, ORIGINAL, "", (), 0, before=1.0, after=1.0)
