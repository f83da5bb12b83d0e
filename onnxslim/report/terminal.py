"""The report as tables, for people: colored in a terminal, plain elsewhere."""

from __future__ import annotations

import io

from onnxslim.report.plain import plain_table
from onnxslim.report.report import Report
from onnxslim.report.tables import tables
from onnxslim.report.text import Table, printable
from onnxslim.report.verdict import headline, remarks

__all__ = ["render_tables", "to_terminal"]


def render_tables(found: list[Table], lines: list[str], *, width: int = 100, color: bool = False) -> str:
    """Tables, then sentences, as one text; ANSI colors only where asked for."""
    if not color:
        text = [line for table in found for line in plain_table(table, width)]
        return "\n".join([*text, *map(printable, lines)]) + "\n"
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True)
    for table in found:
        drawn = RichTable(
            title=table.title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_header=any(table.head),
        )
        for head, side in zip(table.head, table.align, strict=True):
            drawn.add_column(head, justify="left" if side == "l" else "right", overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(printable(cell)) for cell in row))  # Text: names in a model are no markup
        console.print(drawn)
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def to_terminal(report: Report, *, width: int = 100, color: bool = False) -> str:
    """The whole report for a terminal ``width`` columns wide."""
    verdict = headline(report)
    lines = [*([str(verdict)] if verdict else []), *remarks(report)]
    return render_tables(list(tables(report)), lines, width=width, color=color)
