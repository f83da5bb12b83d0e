"""What was measured, in the form that a report keeps."""

from __future__ import annotations

from typing import Any

from onnxslim.measure.latency import Latency

__all__ = ["latency_fields"]


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
