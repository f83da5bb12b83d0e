"""Pieces of the page: tables with or without charts in them, figures, lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxslim.report.charts import Estimate, bars, interval, interval_axis, interval_scale
from onnxslim.report.markup import Safe, element, join, text
from onnxslim.report.quantities import Quantity
from onnxslim.report.text import Table, ratio
from onnxslim.report.verdict import MARGIN

__all__ = ["comparison", "facts", "figure", "intervals", "legend", "listed", "status", "table"]

_ROWS = 60
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
    return element("span", mark, " ", word, class_=f"status {_TONES.get(word, '')}".strip())


def table(found: Table, charts: Sequence[Safe] = (), limit: int = _ROWS) -> Safe:
    """A table with its title as caption; ``charts``, one a row, get a column of their own after the first."""
    if not found.rows:
        return Safe("")
    shown = found.first(limit)
    head = Safe("")
    if any(shown.head):
        cells = [
            element("th", cell, scope="col", class_=_side(side)) if cell else element("td")
            for cell, side in zip(shown.head, shown.align, strict=True)
        ]
        if charts:
            cells.insert(1, element("td", class_="chart"))
        head = element("thead", element("tr", *cells))
    body = []
    for number, row in enumerate(shown.rows):
        cells = [element("th", row[0], scope="row")]
        cells += [
            element("td", status(cell), class_=_side(side))
            for cell, side in zip(row[1:], shown.align[1:], strict=True)
        ]
        if charts:
            cells.insert(1, element("td", charts[number] if number < len(charts) else "", class_="chart"))
        body.append(element("tr", *cells))
    drawn = element("table", element("caption", shown.title), head, element("tbody", *body))
    return element("div", drawn, class_="scroll", role="region", aria_label=shown.title, tabindex=0)


def _side(side: str) -> str | None:
    return "n" if side == "r" else None


def comparison(title: str, found: Sequence[Quantity], single: bool) -> Safe:
    """Both models side by side as bars and numbers; for a single model, numbers alone."""
    if not found:
        return Safe("")
    rows = []
    for quantity in found[:_ROWS]:
        cells = [element("th", quantity.label, scope="row")]
        if single:
            cells.append(element("td", quantity.shown(quantity.before), class_="n"))
        else:
            after: list[str] = [quantity.shown(quantity.after)]
            if quantity.spread:
                after += [" ", element("small", "[{:.4g}, {:.4g}]".format(*quantity.spread))]
            cells += [
                element("td", bars(quantity.before, quantity.after, quantity.whisker), class_="chart"),
                element("td", quantity.shown(quantity.before), class_="n", data_label="before"),
                element("td", *after, class_="n", data_label="after"),
                element("td", _compared(quantity), class_="n", data_label="after / before"),
            ]
        rows.append(element("tr", *cells))
    head = [element("td")]
    if single:
        head = []
    else:
        head.append(element("td", class_="chart"))
        head += [
            element("th", word, scope="col", class_="n") for word in ("before", "after", "after / before")
        ]
    return element(
        "table",
        element("caption", title),
        element("thead", element("tr", *head)) if head else "",
        element("tbody", *rows),
        class_="facts" if single else "pairs",
    )


def _compared(quantity: Quantity) -> Safe:
    """The ratio, said to be good or bad only where that is certain."""
    if quantity.note or quantity.ratio is None:
        return text(quantity.compared())
    ends = quantity.interval
    low, high = ends or (quantity.ratio, quantity.ratio)
    margin = MARGIN if ends else 0.0
    smaller, larger = high < 1 / (1 + margin), low > 1 + margin
    tone = None
    if quantity.better and (smaller or larger):
        tone = "good" if smaller == (quantity.better == "lower") else "bad"
    mark = element("span", "▼ " if smaller else "▲ ", aria_hidden="true") if tone else Safe("")
    parts = [element("span", mark, ratio(quantity.ratio), class_=f"status {tone}" if tone else None)]
    if ends:
        parts += [Safe(" "), element("small", f"[{ends[0]:.3f}, {ends[1]:.3f}]")]
    return join(parts)


def intervals(title: str, found: Sequence[Estimate]) -> Safe:
    """Ratios with their intervals, one under the other on a common logarithmic axis."""
    if not found:
        return Safe("")
    scale = interval_scale(found[:_ROWS])
    rows = [
        element(
            "tr",
            element("th", estimate.label, scope="row"),
            element("td", interval(estimate, scale), class_="chart"),
            element("td", ratio(estimate.ratio, estimate.ends), class_="n", data_label="after / before"),
            element("td", status(estimate.verdict), data_label="verdict"),
        )
        for estimate in found[:_ROWS]
    ]
    rows.append(
        element(
            "tr", element("td"), element("td", interval_axis(scale), class_="chart"), *[element("td")] * 2
        )
    )
    head = [
        element("td"),
        element("td", class_="chart"),
        element("th", "after / before", scope="col", class_="n"),
    ]
    head.append(element("th", "verdict", scope="col"))
    return element(
        "table",
        element("caption", title),
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        class_="pairs intervals",
    )


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
