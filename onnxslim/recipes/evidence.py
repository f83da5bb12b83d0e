"""What was measured, in the form that a report keeps."""

from __future__ import annotations

from typing import Any

from onnxslim.measure.latency import Latency
from onnxslim.measure.profile import join, profile
from onnxslim.measure.setting import Inputs, Setting
from onnxslim.runtime.sources import RunnableModel

__all__ = ["latency_fields", "profile_fields"]


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
