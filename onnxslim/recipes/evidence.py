"""What was measured, in the form that a report keeps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.errors import OnnxSlimError
from onnxslim.measure.latency import Latency
from onnxslim.measure.profile import join, profile
from onnxslim.measure.setting import Inputs, Setting, draw_inputs
from onnxslim.model.encoding import Side, encodings
from onnxslim.report.report import Report
from onnxslim.runtime.sources import RunnableModel

__all__ = ["encoding_notes", "latency_fields", "profile_fields", "with_profile"]


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


def with_profile(report: Report, a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Report:
    """A report with per-node times of the files before and after; with a note where they cannot be had.

    The inputs are random, and fit the second model: its shapes may have been fixed.
    """
    try:
        inputs = draw_inputs(b, Setting())
        return replace(report, profile=profile_fields(a, b, inputs))
    except OnnxSlimError as error:
        return replace(report, notes=(*report.notes, f"no times of single nodes: {error.what}"))
