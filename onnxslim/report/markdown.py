"""The report as Markdown, for pull requests and model cards: the verdict first, the long tables folded."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnxslim.report.report import Report
from onnxslim.report.tables import details, summary
from onnxslim.report.text import Table, printable, size
from onnxslim.report.verdict import headline, remarks

__all__ = ["to_markdown"]


def _cell(text: str) -> str:
    """Text of a model's author, made harmless: no table, link or HTML grows out of a name."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", printable(text))


def _table(table: Table) -> str:
    rule = tuple("---" if side == "l" else "---:" for side in table.align)
    head, *body = [tuple(_cell(cell) for cell in row) for row in (table.head, *table.rows)]
    rows = [head, rule, *body]
    return f"## {table.title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _folded(found: Iterable[Table]) -> list[str]:
    parts = [_table(table) for table in found]
    return (
        ["<details>\n<summary>What runs, and what was done</summary>", *parts, "</details>"] if parts else []
    )


def to_markdown(report: Report, title: str = "onnxslim report") -> str:
    """The whole report as Markdown; ends with a newline."""
    parts = [f"# {_cell(title)}"]
    verdict = headline(report)
    if verdict:
        parts.append(f"**{_cell(verdict.word)}**: {_cell(verdict.sentence)}")
    parts += [_table(table) for table in summary(report)]
    parts.append("\n".join(f"- {_cell(line)}" for line in remarks(report)))
    parts += _folded(details(report))
    parts.append(
        "\n".join(
            f"- {label}: {_cell(info.path)}, {size(info.bytes)}, {info.nodes} nodes, sha256 `{info.sha256}`"
            for label, info in (("before", report.input), ("after", report.output))
            if info is not None
        )
    )
    facts = [f"{_cell(str(k))} {_cell(str(v))}" for k, v in report.environment.items()]
    facts += [f"seed of {_cell(name)} {seed}" for name, seed in report.seeds.items()]
    if facts:
        parts.append("Environment: " + ", ".join(facts))
    return "\n\n".join(part for part in parts if part) + "\n"
