"""Pooling."""

from __future__ import annotations

from onnxslim.ops.sizes import total_bytes
from onnxslim.ops.spec import OpSpec, QuantRole, first_input

__all__ = ["SPECS"]

SPECS = (
    OpSpec(op_type="AveragePool", homogeneous=first_input, quant=QuantRole(kernel="QLinearAveragePool")),
    OpSpec(op_type="GlobalAveragePool", output_bytes=total_bytes, homogeneous=first_input,
           quant=QuantRole(kernel="QLinearGlobalAveragePool")),
    OpSpec(op_type="MaxPool", moves=first_input, homogeneous=first_input, quant=QuantRole()),
    OpSpec(op_type="GlobalMaxPool", output_bytes=total_bytes, moves=first_input, homogeneous=first_input),
    OpSpec(op_type="LpPool", homogeneous=first_input),
    OpSpec(op_type="GlobalLpPool", output_bytes=total_bytes, homogeneous=first_input),
    OpSpec(op_type="MaxRoiPool"),
    OpSpec(op_type="MaxUnpool"),
)  # fmt: skip
