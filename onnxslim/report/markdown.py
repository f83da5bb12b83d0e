"""The report as Markdown, for pull requests and model cards."""

from __future__ import annotations

import re

from onnxslim.report.report import Report
from onnxslim.report.tables import Table, printable, remarks, size, tables

__all__ = ["to_markdown"]


def _cell(text: str) -> str:
    """Text of a model's author, made harmless: no table, link or HTML grows out of a name."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", printable(text))


def _table(table: Table) -> str:
    rule = tuple("---" if side == "l" else "---:" for side in table.align)
    head, *body = [tuple(_cell(cell) for cell in row) for row in (table.head, *table.rows)]
    rows = [head, rule, *body]
    return f"## {table.title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def to_markdown(report: Report, title: str = "onnxslim report") -> str:
    """The whole report as Markdown; ends with a newline."""
    parts = [f"# {title}"]
    files = [
        f"- {label}: {_cell(info.path)}, {size(info.bytes)}, {info.nodes} nodes, sha256 `{info.sha256}`"
        for label, info in (("in", report.input), ("out", report.output))
        if info is not None
    ]
    if files:
        parts.append("\n".join(files))
    parts += [_table(table) for table in tables(report)]
    parts.append("\n".join(f"- {_cell(line)}" for line in remarks(report)))
    facts = [f"{_cell(str(k))} {_cell(str(v))}" for k, v in report.environment.items()]
    facts += [f"seed of {_cell(name)} {seed}" for name, seed in report.seeds.items()]
    if facts:
        parts.append("Environment: " + ", ".join(facts))
    return "\n\n".join(parts) + "\n"
