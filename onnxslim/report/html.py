"""The report as one HTML file that loads nothing: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from onnxslim.report import measured, quantities, training
from onnxslim.report.blocks import comparison, facts, figure, intervals, legend, listed, table
from onnxslim.report.charts import Estimate, Strip, bars, strip
from onnxslim.report.markup import SPACE, Safe, element, join, text
from onnxslim.report.page import page
from onnxslim.report.report import Report
from onnxslim.report.tables import decline_table, output_table, pass_table, trial_table, weight_table
from onnxslim.report.text import Table, counted, finite, number, ratio, size
from onnxslim.report.verdict import MARGIN, headline, is_single, notes, verified

__all__ = ["to_html"]

_NODES = 30
_OPERATORS = 30
_LEFTOVERS = 20
_REASONS = 40
_EXAMPLES = 3
_NAME = 120  # characters of a file's name in the title


def to_html(report: Report, title: str = "onnxslim report") -> str:
    """The whole report as one page; ends with a newline.

    Example:
        >>> page = to_html(Report(before={"bytes": 100}, after={"bytes": 40}))
        >>> "40 B after" in page, "<script" in page
        (True, False)
    """
    sections = [(name, body) for name, build in _SECTIONS if (body := join(build(report)))]
    found = headline(report)
    header = (element("h1", title), _files_line(report), _banner(report))
    return page(f"{title}: {found.word}" if found else title, header, sections)


def _files_line(report: Report) -> Safe:
    files = [element("code", text(info.path, _NAME)) for info in (report.input, report.output) if info]
    return element("p", join(files, " → "), class_="files") if files else Safe("")


def _banner(report: Report) -> Safe:
    found = headline(report)
    if found is None and not report.gates:
        return Safe("")
    parts = []
    if found:
        sentence = element("span", found.sentence, class_="sentence")
        parts.append(
            element("p", element("strong", found.word), SPACE, sentence, class_=f"verdict {found.tone}")
        )
        parts.append(listed(found.details, "details"))
    parts.append(table(measured.gate_table(report)))
    broken = any(gate.get("verdict") == "broken" for gate in report.gates)
    tone = "bad" if broken else found.tone if found else "neutral"
    return element("div", *parts, class_=f"banner {tone}", role="group", aria_label="Verdict")


def _overview(report: Report) -> Iterator[Safe]:
    single, found = is_single(report), quantities.model(report)
    yield comparison("The model" if single else "Before and after", found, single)
    if not single and any(quantity.whisker for quantity in found):
        yield legend(("whisker", "95 % interval"))


def _notes(report: Report) -> Iterator[Safe]:
    yield listed(notes(report))


def _time(report: Report) -> Iterator[Safe]:
    yield table(measured.percentile_table(report))
    settings = report.scenarios or ((report.latency,) if report.latency else ())
    found = [
        Estimate.of(
            entry, str(entry.get("name") or (f"setting {i}" if len(settings) > 1 else "after / before"))
        )
        for i, entry in enumerate(settings, 1)
    ]
    known = [estimate for estimate in found if estimate]
    if known:
        title = "Ratio of times in each setting" if report.scenarios else "Ratio of times"
        yield intervals(title, known, Estimate.control_of(report.latency or {}))
        yield legend(("margin", f"margin of ±{MARGIN:.0%}"), ("span", "ratio and its 95 % interval"))
    if len(known) < len(report.scenarios):
        yield table(measured.scenario_table(report))


def _rounds(report: Report) -> Iterator[Safe]:
    latency = report.latency or {}
    found = Strip.of(latency)
    if found is None:
        return
    estimates = [e for e in (Estimate.control_of(latency), Estimate.of(latency, "after / before")) if e]
    drawn = max(len(found.rounds), len(found.control))
    words = (
        f"{counted(found.found, 'round')} in {counted(found.epochs, 'epoch')}, the first epoch at the top."
    )
    if found.left_out:
        words = f"{drawn:,} of {words} The others are left out here (all in --json)."
    if outside := found.outside(found.scale(estimates)):
        words += f" {counted(outside, 'point')} beyond the ends of the axis {'is' if outside == 1 else 'are'}"
        words += " drawn at them."
    entries = [("margin", f"margin of ±{MARGIN:.0%}")]
    if found.rounds:
        entries.insert(0, ("round", "after / before in one round"))
    if found.control:
        entries.append(("control-round", "control: the original against itself"))
    for estimate in estimates:
        kind = "control-band" if estimate.control else "verdict-band"
        what = "control" if estimate.control else "after / before"
        entries.append((kind, f"{what} {ratio(estimate.ratio, estimate.ends)}"))
    yield figure(strip(found, estimates, "rounds"), words, legend(*entries))


def _resources(report: Report) -> Iterator[Safe]:
    single = is_single(report)
    yield comparison("Throughput", quantities.throughput(report), single)
    yield comparison("Start and memory", quantities.footprint(report), single)
    yield comparison("Transfers", quantities.transfers(report), single)


def _running(report: Report) -> Iterator[Safe]:
    profile = report.profile or {}
    yield table(measured.running_table(report))
    before, after = profile.get("before") or {}, profile.get("after")
    found = (
        _counts("Kernels that run", before.get("kernels"), (after or {}).get("kernels")),
        _counts("Operators in the file", report.before.get("ops"), report.after.get("ops")),
    )
    yield element("div", *found, class_="columns") if all(found) else join(found)
    yield table(measured.leftover_table(report, _LEFTOVERS))


def _counts(title: str, before: Any, after: Any) -> Safe:
    charts: list[Safe] = []
    if before and after:
        most = max((*before.values(), *after.values()), default=0)
        changes = measured.count_changes(before, after)[: _OPERATORS + 1]
        charts = [bars(old, new, most=most) for _, old, new in changes]
    return table(measured.count_table(title, before, after or None, _OPERATORS), charts, stack=False)


def _hot(report: Report) -> Iterator[Safe]:
    profile = report.profile or {}
    rows = measured.joined(report)[: _NODES + 1]
    if rows:
        pairs = [
            tuple(finite((entry.get(side) or {}).get("us")) for side in ("before", "after")) for entry in rows
        ]
        most = max((value for pair in pairs for value in pair if value), default=0.0)
        charts = [bars(before, after, most=most) for before, after in pairs]
    else:
        nodes = ((profile.get("before") or {}).get("nodes") or ())[: _NODES + 1]
        times = [finite(node.get("us")) for node in nodes]
        charts = [bars(None, time, most=max(filter(None, times), default=0.0)) for time in times]
    yield table(measured.hot_table(report, _NODES), charts)


def _accuracy(report: Report) -> Iterator[Safe]:
    yield listed(verified(report), "details")
    yield table(output_table(report.verification or {}))
    yield comparison("Score", quantities.score(report), is_single(report))


def _training(report: Report) -> Iterator[Safe]:
    found = report.distillation
    if not found:
        return
    yield listed(training.sentences(report), "details")
    for key in ("loss", "agreement"):
        words = f"{key.capitalize()} on held-out samples; the point is what was kept."
        drawn = training.curve(training.looks(report, key), found.get("best"), words, f"training-{key}")
        yield figure(drawn, words) if drawn else Safe("")
    yield table(training.term_table(report))
    yield table(training.block_table(report))
    yield table(training.training_output_table(report))
    yield table(training.trained_table(report))


def _work(report: Report) -> Iterator[Safe]:
    yield table(pass_table(report))
    yield table(trial_table(report))
    yield table(weight_table(report))


def _declined(report: Report) -> Iterator[Safe]:
    yield table(decline_table(report, _REASONS, _EXAMPLES))


def _origin(report: Report) -> Iterator[Safe]:
    rows = tuple(
        (label, info.path, size(info.bytes), number(info.nodes), info.sha256)
        for label, info in (("before", report.input), ("after", report.output))
        if info
    )
    yield table(Table("Files", ("", "path", "bytes", "nodes", "sha256"), rows, "llrrl"))
    yield facts("Environment", ((str(key), str(value)) for key, value in report.environment.items()))
    yield facts("Seeds", ((str(key), str(value)) for key, value in report.seeds.items()))


_SECTIONS: tuple[tuple[str, Callable[[Report], Iterator[Safe]]], ...] = (
    ("At a glance", _overview),
    ("Notes", _notes),
    ("Time", _time),
    ("Every round", _rounds),
    ("Resources", _resources),
    ("Operators and kernels", _running),
    ("Where the time goes", _hot),
    ("Accuracy", _accuracy),
    ("Training", _training),
    ("What was done", _work),
    ("What was left alone", _declined),
    ("Origin", _origin),
)
