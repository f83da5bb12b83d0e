"""The whole of a comparison."""

from __future__ import annotations

from typing import Any

from onnxslim.measure.latency import Latency, measure_latency
from onnxslim.runtime.sources import RunnableModel

__all__ = ["bench"]


def bench(a: RunnableModel, b: RunnableModel | None = None, **how: Any) -> Latency:
    """Measure one model, or compare two.

    Example:
        >>> from onnx.parser import parse_model
        >>> text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
        >>> bench(parse_model(text), budget_s=1).verdict is None
        True
    """
    return measure_latency(a, b, **how)
