"""The tables of a report as plain rows, shared by the terminal, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxslim.report import measured, quantities, training
from onnxslim.report.report import Report
from onnxslim.report.text import Table, change, counted, duration, finite, number, ratio, size
from onnxslim.report.verdict import is_single

__all__ = [
    "decline_table",
    "details",
    "layer_table",
    "output_table",
    "pass_table",
    "summary",
    "tables",
    "trial_table",
    "weight_table",
]

_DECLINES_SHOWN = 12
_ROWS_SHOWN = 10


def tables(report: Report) -> Iterator[Table]:
    """The tables of a report, in reading order; empty ones are left out."""
    yield from summary(report)
    yield from details(report)


def summary(report: Report) -> Iterator[Table]:
    """The tables that nobody should miss."""
    return (
        table
        for table in (
            quantities.quantity_table("Model", quantities.model(report), is_single(report)),
            measured.gate_table(report),
            measured.percentile_table(report),
            measured.scenario_table(report),
            *measured.resource_tables(report),
            training.term_table(report),
        )
        if table.rows
    )


def details(report: Report) -> Iterator[Table]:
    """The tables for who wants to know why."""
    profile = report.profile or {}
    before, after = (dict(found) if (found := profile.get(side)) else None for side in ("before", "after"))
    kernels = (before or {}).get("kernels"), after.get("kernels") if after else None
    return (
        table
        for table in (
            measured.running_table(report),
            measured.count_table("Kernels", *kernels, _ROWS_SHOWN),
            measured.leftover_table(report, _ROWS_SHOWN),
            measured.hot_table(report, _ROWS_SHOWN),
            measured.reason_table(report),
            pass_table(report),
            trial_table(report),
            training.block_table(report),
            training.trained_table(report),
            training.training_output_table(report),
            weight_table(report),
            output_table(report.verification or {}),
            decline_table(report, _DECLINES_SHOWN),
        )
        if table.rows
    )


def pass_table(report: Report) -> Table:
    """What each pass did."""
    rows = []
    for record in report.passes:
        if record.rolled_back is not None:
            effect = f"taken back: {record.rolled_back}"
        elif not record.modified:
            effect = "nothing to do"
        else:
            effect = "changed the model"
        rows.append(
            (
                record.name,
                record.promise,
                change(-record.nodes_removed),
                change(-record.weight_bytes_removed, "B"),
                duration(record.seconds) if record.seconds else "-",
                effect,
            )
        )
    return Table("Passes", ("pass", "promise", "nodes", "weights", "time", "effect"), tuple(rows), "llrrrl")


def trial_table(report: Report) -> Table:
    """The candidates of a search."""
    rows = []
    for trial in report.tried:
        sqnr = finite(trial.get("sqnr_db"))
        rows.append(
            (
                str(trial.get("name", "?")),
                ratio(trial.get("bytes_ratio")),
                _time_ratio(trial),
                number(trial.get("score")),
                f"{sqnr:.1f} dB" if sqnr is not None else "-",
                "kept" if trial.get("kept") else (trial.get("reason") or "another one is better"),
            )
        )
    return Table(
        "Tried", ("candidate", "bytes ratio", "time ratio", "score", "SQNR", "outcome"), tuple(rows), "lrrrrl"
    )


def _time_ratio(trial: Mapping[str, Any]) -> str:
    """With each number of threads, where there were several."""
    found = trial.get("scenarios") or ()
    if not found:
        return ratio(trial.get("ratio"), trial.get("interval"))
    each = (f"{counted(one['threads'], 'thread')}: {ratio(one['ratio'], one['interval'])}" for one in found)
    return ", ".join(each)


def weight_table(report: Report) -> Table:
    """How the weights of the candidate that was kept are stored, the largest first."""
    found = [entry for trial in report.tried if trial.get("kept") for entry in trial.get("weights") or ()]
    rows = tuple(
        (
            str(entry.get("weight")),
            str(entry.get("form")),
            f"{entry['bits']:.2f}",
            size(entry["bytes"]),
            "-" if entry.get("sqnr_db") is None else f"{entry['sqnr_db']:.1f} dB",
            str(entry.get("why") or ""),
        )
        for entry in found
    )
    head = ("weight", "stored as", "bits", "bytes", "SQNR", "why not fewer")
    return Table("Weights", head, rows, "llrrrl").first(_ROWS_SHOWN, "weights")


def output_table(verification: Mapping[str, Any]) -> Table:
    """How far each output of a verification is from the original's."""
    rows = []
    for output in verification.get("outputs") or ():
        sqnr = output.get("sqnr_db")
        rows.append(
            (
                str(output.get("name")),
                number(output.get("max_abs_diff")),
                number(output.get("ref_max")),
                "-" if sqnr is None else (f"{sqnr:.1f} dB" if isinstance(sqnr, float) else str(sqnr)),
                "bit-equal" if output.get("bit_equal") else ("ok" if output.get("ok") else "differs"),
            )
        )
    return Table(
        "Outputs against the original", ("output", "max |d|", "max |ref|", "SQNR", ""), tuple(rows), "lrrrl"
    )


def layer_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Signal to noise of each value, as :class:`onnxslim.measure.layers.Layer` has it."""

    def decibels(value: float | None) -> str:
        return "-" if value is None else "equal" if value == math.inf else f"{value:.1f} dB"

    rows = tuple(
        (
            str(layer["value"]),
            str(layer["op"]),
            decibels(layer["sqnr_db"]),
            "-" if layer["drop_db"] is None else f"{layer['drop_db']:+.1f}",
            decibels(layer["own_db"]),
        )
        for layer in layers
    )
    return Table("Layers", ("value", "operator", "SQNR", "lost here", "born here"), rows, "llrrr")


def decline_table(report: Report, limit: int, examples: int = 1) -> Table:
    """What was left alone, by reason, with some of the nodes concerned."""
    groups = report.declined_by_reason()
    rows = tuple(
        (pass_name, reason, number(len(nodes)), ", ".join(nodes[:examples]))
        for (pass_name, reason), nodes in groups.items()
    )
    return Table("Left alone", ("pass", "reason", "count", "for example"), rows, "llrl").first(
        limit, "reasons"
    )
