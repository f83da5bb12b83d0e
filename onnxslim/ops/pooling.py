"""Pooling."""

from __future__ import annotations

from onnxslim._ir import ir
from onnxslim.ops.coupling import Axes, same_axes
from onnxslim.ops.pooling_gradient import RULES
from onnxslim.ops.sizes import total_bytes
from onnxslim.ops.spec import OpSpec, QuantRole, first_input

__all__ = ["SPECS"]


def _couple(node: ir.Node, axes: Axes) -> None:
    """Batch and channels are handed on."""
    data = node.inputs[0]
    assert data is not None
    same_axes(node, axes, but=range(2, len(axes.dims(data))))


SPECS = (
    OpSpec(op_type="AveragePool", vjp=RULES["AveragePool"], couple=_couple, homogeneous=first_input,
           quant=QuantRole(kernel="QLinearAveragePool")),
    OpSpec(op_type="GlobalAveragePool", vjp=RULES["GlobalAveragePool"],
           couple=_couple, homogeneous=first_input, output_bytes=total_bytes,
           quant=QuantRole(kernel="QLinearGlobalAveragePool")),
    OpSpec(op_type="MaxPool", vjp=RULES["MaxPool"],
           couple=_couple, homogeneous=first_input, moves=first_input, quant=QuantRole()),
    OpSpec(op_type="GlobalMaxPool", vjp=RULES["GlobalMaxPool"],
           couple=_couple, homogeneous=first_input, output_bytes=total_bytes,
           moves=first_input),
    OpSpec(op_type="LpPool", vjp=RULES["LpPool"], couple=_couple, homogeneous=first_input),
    OpSpec(op_type="GlobalLpPool", vjp=RULES["GlobalLpPool"],
           couple=_couple, homogeneous=first_input, output_bytes=total_bytes),
    OpSpec(op_type="MaxRoiPool"),
    OpSpec(op_type="MaxUnpool"),
)  # fmt: skip
