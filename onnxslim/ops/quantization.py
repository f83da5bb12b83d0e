"""Between floats and integers by a scale and a zero point."""

from __future__ import annotations

from onnxslim.ops.sizes import broadcast_bytes
from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS"]

SPECS = (
    OpSpec(op_type="QuantizeLinear", output_bytes=broadcast_bytes),
    OpSpec(op_type="DequantizeLinear", output_bytes=broadcast_bytes),
    OpSpec(op_type="DynamicQuantizeLinear"),
)
