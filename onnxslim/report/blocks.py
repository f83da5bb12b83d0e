"""Pieces of the page: tables with or without charts in them, figures, lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from onnxslim.report.charts import Estimate, bars, interval, interval_axis, interval_scale
from onnxslim.report.markup import SPACE, Safe, element, join, text
from onnxslim.report.quantities import Quantity, quantity_table
from onnxslim.report.text import Table, ratio
from onnxslim.report.verdict import MARGIN

__all__ = ["comparison", "facts", "figure", "intervals", "legend", "listed", "status", "table"]

_SIDES = ("before", "after")
_ROWS = 50
_VISIBLE = 0.0005  # a smaller change of a counted quantity would read 1.000
_WORD = 26  # characters that stay on one line
_SENTENCES = 40
_SENTENCE = 800  # characters
_MARKS = {
    "met": "✓",
    "faster": "▼",
    "ok": "✓",
    "bit-equal": "✓",
    "kept": "✓",
    "broken": "✗",
    "slower": "▲",
    "differs": "✗",
    "undecided": "?",
    "inconclusive": "?",
    "equal": "=",
}
_TONES = {
    "met": "good",
    "faster": "good",
    "kept": "good",
    "broken": "bad",
    "slower": "bad",
    "differs": "bad",
    "undecided": "unsure",
    "inconclusive": "unsure",
}


def status(word: str) -> Safe:
    """A verdict with its mark and color; any other text as it is."""
    if word not in _MARKS:
        return text(word)
    mark = element("span", _MARKS[word], aria_hidden="true")
    return element("span", mark, SPACE, word, class_=f"status {_TONES.get(word, '')}".strip())


def table(found: Table, charts: Sequence[Safe] = (), *, stack: bool = True) -> Safe:
    """A table with its title as caption.

    Args:
        charts: one a row; they get a column of their own after the first.
        stack: on a phone, rows of text become blocks.
    """
    shown = found.first(_ROWS)
    rows = [[text(row[0]), *map(status, row[1:])] for row in shown.rows]
    kinds = ["pairs"] if charts else []
    if stack and (charts or (len(found.head) > 2 and "l" in found.align[1:])):
        kinds.append("stack")
    return _table(shown.title, shown.head, shown.align, rows, charts, kinds)


def comparison(title: str, found: Sequence[Quantity], single: bool) -> Safe:
    """Both models side by side as bars and numbers; for a single model, numbers alone."""
    if single:
        return table(quantity_table(title, list(found), single))
    rows = [[text(q.label), text(q.shown(q.before)), _with_spread(q), _compared(q)] for q in found[:_ROWS]]
    charts = [bars(q.before, q.after, q.whisker) for q in found[:_ROWS]]
    return _table(title, ("", *_SIDES, "after / before"), "lrrr", rows, charts, ["pairs", "stack"])


def intervals(title: str, found: Sequence[Estimate], control: Estimate | None) -> Safe:
    """Ratios with their intervals, one under the other on a common logarithmic axis."""
    shown = [*found[:_ROWS], *([control] if control else [])]
    if not found:
        return Safe("")
    scale = interval_scale(shown)
    rows = [
        [
            text(estimate.label),
            *([text(estimate.before), text(estimate.after)] if len(found) > 1 else []),
            text(ratio(estimate.ratio, estimate.ends)),
            status(estimate.verdict),
        ]
        for estimate in shown
    ]
    rows.append([Safe("")] * len(rows[0]))
    charts = [*(interval(estimate, scale) for estimate in shown), interval_axis(scale)]
    sides = _SIDES if len(found) > 1 else ()
    align = "l" + "r" * len(sides) + "rl"
    return _table(
        title, ("", *sides, "after / before", "verdict"), align, rows, charts, ["pairs", "intervals", "stack"]
    )


def _table(
    title: str,
    head: Sequence[str],
    align: str,
    rows: Sequence[Sequence[Safe]],
    charts: Sequence[Safe] = (),
    kinds: Sequence[str] = (),
) -> Safe:
    if not rows:
        return Safe("")
    body = []
    for number, row in enumerate(rows):
        first = _breakable(row[0])
        cells = [element("th", first, scope="row", class_=_kind(row[0])) if first else element("td")]
        cells += [
            element("td", _breakable(cell), class_=_kind(cell, side), data_label=name or None)
            for cell, side, name in zip(row[1:], align[1:], head[1:], strict=True)
        ]
        if charts:
            cells.insert(1, element("td", charts[number] if number < len(charts) else "", class_="chart"))
        body.append(element("tr", *cells))
    parts = [element("caption", title)]
    if any(head):
        heads = [_head(word, side, bool(charts)) for word, side in zip(head, align, strict=True)]
        if charts:
            heads.insert(1, element("td", class_="chart"))
        parts.append(element("thead", element("tr", *heads)))
    drawn = element("table", *parts, element("tbody", *body), class_=" ".join(kinds) or None)
    return element("div", drawn, class_="scroll", role="region", aria_label=title, tabindex=0)


def _head(word: str, side: str, drawn: bool) -> Safe:
    """The head of a column, with the color of its bars where there are some."""
    if not word:
        return element("td")
    key = [element("span", class_=f"key {word}", aria_hidden="true")] if drawn and word in _SIDES else []
    return element("th", *key, word, scope="col", class_=_kind(word, side))


def _breakable(cell: Safe) -> Safe:
    """A long name may be broken where its parts end."""
    return Safe(re.sub("([/_.:])", r"\1<wbr>", cell)) if _kind(cell) == "long" else cell


def _kind(cell: str, side: str = "l") -> str | None:
    """``n`` for quantities, ``long`` for what may be broken anywhere because it has no spaces to speak of."""
    if max(map(len, cell.split()), default=0) > _WORD and not cell.startswith("<"):
        return "long"
    return "n" if side == "r" else None


def _with_spread(quantity: Quantity) -> Safe:
    shown = text(quantity.shown(quantity.after))
    if not quantity.spread:
        return shown
    return join((shown, SPACE, element("small", "[{:.4g}, {:.4g}]".format(*quantity.spread))))


def _compared(quantity: Quantity) -> Safe:
    """The ratio, said to be good or bad only where that is certain."""
    if quantity.note or quantity.ratio is None:
        return text(quantity.compared())
    ends = quantity.interval
    low, high = ends or (quantity.ratio, quantity.ratio)
    margin = MARGIN if ends else _VISIBLE
    smaller, larger = high < 1 / (1 + margin), low > 1 + margin
    tone = None
    if quantity.better and (smaller or larger):
        tone = "good" if smaller == (quantity.better == "lower") else "bad"
    mark = [element("span", "▼" if smaller else "▲", aria_hidden="true"), SPACE] if tone else []
    parts = [element("span", *mark, ratio(quantity.ratio), class_=f"status {tone}" if tone else None)]
    if ends:
        parts += [SPACE, element("small", f"[{ends[0]:.3f}, {ends[1]:.3f}]")]
    return join(parts)


def figure(drawn: Safe, caption: str, *below: Safe) -> Safe:
    """A chart with what it shows in words."""
    return element("figure", element("figcaption", caption), drawn, *below)


def legend(*entries: tuple[str, str]) -> Safe:
    """What the marks of a chart mean: (class of the mark, words)."""
    items = [
        element("li", element("span", class_=f"key {kind}", aria_hidden="true"), words)
        for kind, words in entries
    ]
    return element("ul", *items, class_="legend")


def listed(sentences: Iterable[str], kind: str | None = None) -> Safe:
    """Sentences as a list."""
    found = list(sentences)
    items = [element("li", text(sentence, _SENTENCE)) for sentence in found[:_SENTENCES]]
    if len(found) > _SENTENCES:
        items.append(element("li", f"... {len(found) - _SENTENCES:,} more (all in --json)"))
    return element("ul", *items, class_=kind) if items else Safe("")


def facts(title: str, found: Iterable[tuple[str, str]]) -> Safe:
    """Names and values."""
    return table(Table(title, ("", ""), tuple(found), "ll"))
