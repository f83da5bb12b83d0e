"""Results as a Markdown table to read and as JSON to compute with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from onnxslim.report.report import plain

RESULTS = Path(__file__).with_name("results")


class Line(Protocol):
    """What became of one model."""

    def cells(self) -> Sequence[str]:
        """The row of the table."""


R = TypeVar("R", bound=Line)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is aligned to the left, the others to the right.

    Example:
        >>> print(markdown(["model", "n"], [["digits", "1000"]]))
        | model  |    n |
        |:-------|-----:|
        | digits | 1000 |
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [f":{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        aligned = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(aligned)} |"

    return "\n".join([line(header), f"|{'|'.join(rule)}|", *map(line, rows)])


def write(folder: Path, name: str, table: str, data: Any) -> None:
    """Write ``name.md`` and ``name.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"{table}\n", encoding="utf-8")
    (folder / f"{name}.json").write_text(f"{json.dumps(plain(data), indent=1)}\n", encoding="utf-8")


def tabulate(
    name: str, folder: Path, header: Sequence[str], jobs: Iterable[tuple[str, Callable[[], R]]]
) -> int:
    """Do one job after the other; the table so far is written after each, and printed at the end.

    Args:
        name: of the files.
        jobs: what each is called, and what does it; one that fails is named, and the others go on.

    Returns:
        The exit code: 1 where one failed.
    """
    rows: list[R] = []
    table, failed = "", 0
    for title, job in jobs:
        try:
            rows.append(job())
        except (RuntimeError, FileNotFoundError) as error:
            failed += 1
            print(f"{title}: {error}", file=sys.stderr)
            continue
        table = markdown(header, [row.cells() for row in rows])
        write(folder, name, table, rows)
        print("  ".join(rows[-1].cells()), file=sys.stderr, flush=True)
    if table:
        print(table)
    return int(failed > 0)
