"""Normalization layers."""

from __future__ import annotations

from onnxslim._ir import ir
from onnxslim.ops.attributes import int_of
from onnxslim.ops.sizes import total_bytes
from onnxslim.ops.spec import OpSpec, QuantRole

__all__ = ["SPECS"]


def _behind_batch(node: ir.Node) -> int:
    return 1


def _last(node: ir.Node) -> int:
    return int_of(node, "axis", -1)


_AFFINE = {
    "BatchNormalization": _behind_batch,
    "GroupNormalization": _behind_batch,
    "InstanceNormalization": _behind_batch,
    "LayerNormalization": _last,
    "RMSNormalization": _last,
}

SPECS = tuple(
    OpSpec(op_type=name, output_bytes=total_bytes, affine=_AFFINE.get(name), quant=QuantRole())
    for name in (*_AFFINE, "LpNormalization", "LRN", "MeanVarianceNormalization")
)
