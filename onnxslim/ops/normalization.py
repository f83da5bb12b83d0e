"""Normalization layers."""

from __future__ import annotations

from onnxslim.ops.sizes import total_bytes
from onnxslim.ops.spec import OpSpec, QuantRole

__all__ = ["SPECS"]

SPECS = tuple(
    OpSpec(op_type=name, output_bytes=total_bytes, quant=QuantRole())
    for name in (
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "LRN",
        "MeanVarianceNormalization",
        "RMSNormalization",
    )
)
