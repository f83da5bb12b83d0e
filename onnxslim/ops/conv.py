"""Convolutions, of any rank and grouping."""

from __future__ import annotations

from functools import partial

from onnxslim._ir import ir
from onnxslim.ops.linear import conv_linear
from onnxslim.ops.macs import dims_of, output_dims, product
from onnxslim.ops.spec import OpSpec, QuantRole, ShapeOf

__all__ = ["SPECS"]


def _conv(node: ir.Node, shape_of: ShapeOf, *, weight: int = 1) -> int | None:
    """Every output element adds up one filter: ``in / group * kernel`` products."""
    outputs = product(output_dims(node, shape_of))
    filters = dims_of(node, weight, shape_of)
    per_element = None if filters is None else product(filters[1:])
    return None if outputs is None or per_element is None else outputs * per_element


def _conv_transpose(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """Every input element is multiplied into ``out / group * kernel`` outputs."""
    inputs, filters = product(dims_of(node, 0, shape_of)), dims_of(node, 1, shape_of)
    per_element = None if filters is None else product(filters[1:])
    return None if inputs is None or per_element is None else inputs * per_element


SPECS = (
    OpSpec(op_type="Conv", macs=_conv, linear=conv_linear, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: 0, bias=2, kernel="QLinearConv")),
    OpSpec(op_type="ConvTranspose", macs=_conv_transpose, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: 1, bias=2)),
    OpSpec(op_type="DeformConv", macs=_conv, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: 0, bias=3)),
    OpSpec(op_type="ConvInteger", macs=_conv, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: 0, integer=True)),
    OpSpec(op_type="QLinearConv", macs=partial(_conv, weight=3), quant=QuantRole(
        inputs=(0,), weight=3, weight_axis=lambda node: 0, bias=8, integer=True)),
    OpSpec(op_type="CausalConvWithState", macs=_conv, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: 0, bias=2)),
)  # fmt: skip
