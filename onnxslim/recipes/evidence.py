"""What was measured, in the form that a report keeps."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.extract import named_values
from onnxslim.errors import BudgetError, OnnxSlimError
from onnxslim.measure.latency import Latency
from onnxslim.measure.metrics import MetricResult
from onnxslim.measure.profile import join, profile
from onnxslim.measure.setting import Inputs, Setting, draw_inputs
from onnxslim.model.encoding import Side, encodings
from onnxslim.model.tensors import shown
from onnxslim.ops.registry import is_conversion, spec_of
from onnxslim.recipes.budget import Drop
from onnxslim.report.report import Report
from onnxslim.runtime.sources import RunnableModel
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import DEFAULT_TARGET

__all__ = [
    "check_drop",
    "check_sqnr",
    "encoding_notes",
    "latency_fields",
    "metric_fields",
    "profile_fields",
    "with_profile",
    "with_reasons",
]

_MAX_FUSED = 4  # nodes that the runtime makes one kernel of


def latency_fields(measured: Latency, name: str = "") -> dict[str, Any]:
    """``Report.latency``: A is ``before``, B is ``after``."""
    found = measured.to_dict()
    a, b = found.pop("a"), found.pop("b")
    return {
        "name": name,
        **found,
        "before": a,
        "after": b,
        "before_ms": 1e3 * a["p50"],
        "after_ms": None if b is None else 1e3 * b["p50"],
    }


def metric_fields(name: str, before: MetricResult, after: MetricResult) -> dict[str, Any]:
    """``Report.metric``."""
    values = {"name": name, "before": before.value, "after": after.value, "n": after.n}
    return {**values, "interval": after.interval}


def check_drop(found: Mapping[str, Any], drop: Drop | None, resolution: float, hint: str) -> None:
    """Compare what a report keeps of a metric with what may be lost; None allows everything.

    Raises:
        BudgetError: more is lost.
    """
    before, after = found["before"], found["after"]
    if drop is not None and not drop.allows(before, after, resolution):
        raise BudgetError(
            f"{found['name']} falls from {before:.4f} to {after:.4f}, more than {drop}",
            hint=f"ask for less, allow a larger --max-drop, or give {hint}",
        )


def check_sqnr(verification: Mapping[str, Any] | None, least_db: float, hint: str) -> None:
    """Compare the noisiest output that a report keeps with the least that was asked for.

    Raises:
        BudgetError: it is noisier.
    """
    outputs = (verification or {}).get("outputs") or ()
    noisiest = min(outputs, key=lambda output: float(output["sqnr_db"]), default=None)
    if noisiest is not None and float(noisiest["sqnr_db"]) < least_db:
        raise BudgetError(
            f"output {shown(noisiest['name'])} has {float(noisiest['sqnr_db']):.1f} dB, not {least_db:g}",
            hint=f"ask for less, lower --min-sqnr, or give {hint}",
        )


def encoding_notes(model: ir.Model) -> list[str]:
    """A sentence for each input and output whose integers stand for floats."""
    notes = []
    ports: list[tuple[Side, Sequence[ir.Value]]] = [
        ("input", model.graph.inputs),
        ("output", model.graph.outputs),
    ]
    for side, values in ports:
        known = encodings(model.metadata_props, side)
        for value in values:
            found = known.get(value.name or "")
            if found is not None and value.dtype is not None:
                zero = f" - {found.zero_point}" if found.zero_point >= 0 else f" + {-found.zero_point}"
                notes.append(
                    f"{side} {value.name} is {str(value.dtype).lower()}: "
                    f"real = {np.float32(found.scale)!s} * (integer{zero})"
                )
    return notes


def profile_fields(
    a: RunnableModel, b: RunnableModel | None, inputs: Inputs, setting: Setting | None = None
) -> dict[str, Any]:
    """``Report.profile`` of one model or two."""
    before = profile(a, inputs, setting, name="A")
    after = profile(b, inputs, setting, name="B") if b is not None else None
    return {
        "before": before.to_dict(),
        "after": None if after is None else after.to_dict(),
        "joined": [] if after is None else join(before, after),
    }


def with_reasons(report: Report, model: ir.Model) -> Report:
    """A report whose profile says of each node of ``model``, the result, what it ``computes`` in
    (``integers``, ``floats``, ``nothing``), and the ``reason``.

    The reason is what the quantizer declined it for; else that the target has no kernel for its operator.
    """
    after = (report.profile or {}).get("after")
    if report.profile is None or after is None:
        return report
    values = named_values(model.graph)
    declined = {entry.node: entry.reason for entry in report.declined}
    target, profiled = load_target(DEFAULT_TARGET), {node["output"] for node in after["nodes"]}
    reasons: dict[str, str] = {}
    for node in model.graph:
        spec = spec_of(node)
        if spec is None or spec.quant is None or spec.quant.weight is None or spec.quant.integer:
            continue  # no product, or one that a later pass made integer
        why = next((declined[name] for name in _names_of(node) if name in declined), None)
        if why is not None:
            reasons[_computed_with(node, profiled)] = why

    def explained(node: Mapping[str, Any]) -> tuple[str, str]:
        value = values.get(node["output"])
        producer = value.producer() if value is not None else None
        spec = spec_of(producer) if producer is not None else None
        if node["integer"]:
            why = reasons.get(node["output"])
            return "integers", f"onnxruntime quantizes its weight, although it was left: {why}" if why else ""
        if is_conversion(node["op"]):
            return "nothing", "goes between floats and integers"
        if node["output"] in reasons:
            return "floats", reasons[node["output"]]
        if producer is None or is_conversion(producer.op_type):
            return "nothing", "onnxruntime's own node: the order of elements in memory"
        if spec is not None and spec.data_movement:
            return "nothing", "only moves values"
        if all(fusion.op_type != producer.op_type for fusion in target.fusions):
            return "floats", f"{target.name} has no integer kernel for {producer.op_type} that pays"
        return "floats", "integers would not pay here"

    nodes = [
        {**node, "computes": computes, "reason": reason}
        for node in after["nodes"]
        for computes, reason in [explained(node)]
    ]
    return replace(report, profile={**report.profile, "after": {**after, "nodes": nodes}})


def _names_of(node: ir.Node) -> Iterator[str]:
    yield from filter(None, (node.name, *(value.name for value in node.outputs)))


def _computed_with(node: ir.Node, profiled: Collection[str]) -> str:
    """The output under which a node was profiled: its own, or that of what the runtime fused behind it."""
    value = node.outputs[0]
    for _ in range(_MAX_FUSED):
        users = tuple(value.uses())
        if value.name in profiled or len(users) != 1 or not users[0][0].outputs:
            break
        value = users[0][0].outputs[0]
    return value.name if value.name in profiled and value.name else node.outputs[0].name or ""


def with_profile(report: Report, a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Report:
    """A report with per-node times of the files before and after; with a note where they cannot be had.

    The inputs are random, and fit the second model: its shapes may have been fixed.
    """
    try:
        inputs = draw_inputs(b, Setting())
        return replace(report, profile=profile_fields(a, b, inputs))
    except OnnxSlimError as error:
        return replace(report, notes=(*report.notes, f"no times of single nodes: {error.what}"))
