"""The tables of what was measured: times, settings, memory, throughput, and what really ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxslim.report import quantities
from onnxslim.report.quantities import quantity_table
from onnxslim.report.report import Report
from onnxslim.report.text import Table, counted, duration, finite, number, ratio
from onnxslim.report.verdict import is_single

__all__ = [
    "count_changes",
    "count_table",
    "gate_table",
    "hot_table",
    "joined",
    "leftover_table",
    "percentile_table",
    "resource_tables",
    "running_table",
    "scenario_table",
]

_PERCENTILES = ("p50", "p90", "p99", "best")


def gate_table(report: Report) -> Table:
    """What was asked for, and whether it holds."""
    rows = tuple(
        tuple(str(gate.get(key) or "-") for key in ("gate", "verdict", "found")) for gate in report.gates
    )
    return Table("Gates", ("gate", "verdict", "found"), rows, "lll")


def percentile_table(report: Report) -> Table:
    """How long calls take: the median, and how far the slow ones are from it."""
    latency = report.latency or {}
    rows = tuple(
        (side, *(_time(latency[side].get(key)) for key in _PERCENTILES))
        for side in ("before", "after")
        if latency.get(side)
    )
    if is_single(report):
        rows = tuple(("all calls", *row[1:]) for row in rows)
    # percentiles are of wall time: that is what a user waits for, whichever clock the ratio is taken by
    title = "Time per call" + (
        f" ({counted(latency['threads'], 'thread')})" if latency.get("threads") else ""
    )
    return Table(title, ("", *_PERCENTILES), rows)


def scenario_table(report: Report) -> Table:
    """The settings of a sweep."""
    found = report.scenarios
    names = [str(entry.get("name") or f"setting {i}") for i, entry in enumerate(found, 1)]
    if is_single(report):
        rows = [
            (name, *(_time((entry.get("before") or {}).get(key)) for key in _PERCENTILES))
            for name, entry in zip(names, found, strict=True)
        ]
        return Table("Settings", ("setting", *_PERCENTILES), tuple(rows))
    rows = [
        (
            name,
            _time((entry.get("before") or {}).get("p50")),
            _time((entry.get("after") or {}).get("p50")),
            ratio(entry.get("ratio"), entry.get("interval")),
            str(entry.get("verdict") or "-"),
        )
        for name, entry in zip(names, found, strict=True)
    ]
    return Table(
        "Settings", ("setting", "before", "after", "after / before", "verdict"), tuple(rows), "lrrrl"
    )


def resource_tables(report: Report) -> Iterator[Table]:
    """Throughput, footprint and transfers."""
    single = is_single(report)
    yield quantity_table("Throughput", quantities.throughput(report), single)
    yield quantity_table("Start and memory", quantities.footprint(report), single)
    yield quantity_table("Transfers", quantities.transfers(report), single)


def running_table(report: Report) -> Table:
    """What the runtime really runs: how many kernels, how many of them on integers, and where."""
    profile = report.profile or {}
    sides = [profile[side] for side in ("before", "after") if profile.get(side)]
    if not sides:
        return Table("What runs", ("", ""), ())
    rows = [
        ("time of all nodes, per run", *(_micro(side.get("total_us")) for side in sides)),
        ("kernels", *(number(sum((side.get("kernels") or {}).values())) for side in sides)),
        ("integer kernels", *(number(side.get("integer")) for side in sides)),
        ("QuantizeLinear and DequantizeLinear", *(_length(side.get("leftover")) for side in sides)),
    ]
    providers = dict.fromkeys(name for side in sides for name in side.get("providers") or {})
    rows += [
        (f"nodes on {name}", *(number((side.get("providers") or {}).get(name, 0)) for side in sides))
        for name in providers
    ]
    head = ("", "before", "after") if len(sides) == 2 else ("", "")
    return Table("What runs", head, tuple(rows))


def _length(found: Sequence[str] | None) -> str:
    return "-" if found is None else number(len(found))


def leftover_table(report: Report, limit: int) -> Table:
    """What no integer kernel took in: there the quantization is unfinished."""
    profile = report.profile or {}
    rows = [
        (output, side)
        for side in ("before", "after")
        for output in map(str, (profile.get(side) or {}).get("leftover") or ())
    ]
    if is_single(report):
        rows = [(output, "") for output, _ in rows]
    head = ("output", "") if is_single(report) else ("output", "model")
    return Table("QuantizeLinear and DequantizeLinear that still run", head, tuple(rows), "ll").first(
        limit, "outputs"
    )


def count_table(
    title: str, before: Mapping[str, int] | None, after: Mapping[str, int] | None, limit: int
) -> Table:
    """Operators and their counts, those that changed most first."""
    if after is None:
        rows: list[tuple[str, ...]] = [
            (op, number(count)) for op, count in sorted((before or {}).items(), key=lambda i: -i[1])
        ]
        head: tuple[str, ...] = ("operator", "count")
    else:
        rows = [
            (op, number(old), number(new), f"{new - old:+,}" if new != old else "0")
            for op, old, new in count_changes(before or {}, after)
        ]
        head = ("operator", "before", "after", "change")
    return Table(title, head, tuple(rows)).first(limit, "operators")


def count_changes(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Operator, count before and count after; those that changed most first.

    Example:
        >>> count_changes({"Conv": 3, "Add": 2}, {"Conv": 3, "QLinearAdd": 2})
        [('Add', 2, 0), ('QLinearAdd', 0, 2), ('Conv', 3, 3)]
    """
    found = [(op, before.get(op, 0), after.get(op, 0)) for op in {*before, *after}]
    return sorted(found, key=lambda row: (-abs(row[2] - row[1]), -row[1], row[0]))


def reason_table(report: Report) -> Table:
    """Of each node of the result: integers or floats, why, and its share of the time."""
    nodes = ((report.profile or {}).get("after") or {}).get("nodes") or ()
    rows = tuple(
        (
            str(node.get("output")),
            str(node.get("op")),
            str(node.get("computes")),
            "-" if finite(node.get("share")) is None else f"{node['share']:.1%}",
            str(node["reason"]),
        )
        for node in nodes
        if "reason" in node
    )
    return Table("Nodes of the result", ("output", "kernel", "computes in", "share", "why"), rows, "lllrl")


def hot_table(report: Report, limit: int) -> Table:
    """Where the time goes, node by node; two models are joined by the names of the nodes' outputs."""
    profile = report.profile or {}
    title = "Hottest nodes"
    if profile.get("joined"):
        head: tuple[str, ...] = ("output", "before", "time", "after", "time")
        rows = [
            (str(entry.get("output")), *_node(entry.get("before")), *_node(entry.get("after")))
            for entry in joined(report)
        ]
        return Table(title, head, tuple(rows), "llrlr").first(limit, "nodes")
    nodes = (profile.get("before") or {}).get("nodes") or ()
    rows = [
        (
            str(node.get("output")),
            str(node.get("op")),
            str(node.get("provider") or "-"),
            _micro(node.get("us")),
            "-" if finite(node.get("share")) is None else f"{node['share']:.1%}",
        )
        for node in nodes
    ]
    head = ("output", "operator", "provider", "time", "share")
    return Table(title, head, tuple(rows), "lllrr").first(limit, "nodes")


def joined(report: Report) -> list[Mapping[str, Any]]:
    """The nodes of both models by the name of their output, the hottest of either model first."""

    def hottest(entry: Mapping[str, Any]) -> float:
        return max((finite((entry.get(side) or {}).get("us")) or 0.0) for side in ("before", "after"))

    return sorted((report.profile or {}).get("joined") or (), key=hottest, reverse=True)


def _node(node: Mapping[str, Any] | None) -> tuple[str, str]:
    return (str(node.get("op")), _micro(node.get("us"))) if node else ("-", "-")


def _micro(microseconds: Any) -> str:
    found = finite(microseconds)
    return "-" if found is None else duration(found / 1e6)


def _time(seconds: Any) -> str:
    found = finite(seconds)
    return "-" if found is None else duration(found)
