"""Tables as plain text, for pipes and files; they do not pay for the import of rich."""

from __future__ import annotations

from itertools import zip_longest

from onnxslim.report.text import Table, printable

__all__ = ["plain_table"]

_GAP = "   "
_NARROWEST = 8


def plain_table(table: Table, width: int) -> list[str]:
    """Lines of at most ``width`` characters, as long as the columns can give way; cells are folded.

    Example:
        >>> from onnxslim.report.text import Table
        >>> plain_table(Table("Model", ("", "nodes"), (("before", "12"), ("after", "7"))), 40)
        ['Model', '', '          nodes', ' --------------', ' before      12', ' after        7', '']
    """
    rows = [[printable(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while 1 + sum(widths) + len(_GAP) * (len(widths) - 1) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    head, *body = [_lines(row, widths, table.align) for row in rows]
    rule = " " + "-" * (sum(widths) + len(_GAP) * (len(widths) - 1))
    shown = [*head, rule] if any(table.head) else []
    return [printable(table.title), "", *shown, *(line for lines in body for line in lines), ""]


def _lines(row: list[str], widths: list[int], align: str) -> list[str]:
    folded = [
        [cell[start : start + width] for start in range(0, len(cell), width)]
        for cell, width in zip(row, (max(width, 1) for width in widths), strict=True)
    ]
    return [
        (
            " "
            + _GAP.join(
                part.ljust(width) if side == "l" else part.rjust(width)
                for part, width, side in zip(parts, widths, align, strict=True)
            )
        ).rstrip()
        for parts in zip_longest(*folded, fillvalue="")
    ]
