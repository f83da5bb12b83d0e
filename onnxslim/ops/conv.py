"""Convolutions, of any rank and grouping."""

from __future__ import annotations

from functools import partial

from onnxslim._ir import ir
from onnxslim.ops import conv_gradient
from onnxslim.ops.attributes import int_of
from onnxslim.ops.coupling import Axes, Layout
from onnxslim.ops.linear import conv_linear, transposed_linear
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


def _couple(node: ir.Node, axes: Axes) -> None:
    """Weight ``[out, in / group, ...]``.  Whole groups may go, or the same channels of every group.

    Spec: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None and weight is not None
    made, read = axes.channels(weight, 0), axes.sums(1, 1)
    groups = int_of(node, "group", 1)
    if groups == 1:
        axes.equal(axes.of(data, 1), read)
    else:
        group = axes.free(groups)
        axes.equal(axes.of(data, 1), axes.times((group, read)))
        axes.equal(made, axes.times((group, axes.free((made.size or 0) // groups))))
        axes.attribute("group", group)
    _outer(node, axes, made)


def _couple_transposed(node: ir.Node, axes: Axes) -> None:
    """Weight ``[in, out / group, ...]``.

    Spec: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None and weight is not None
    made, read = axes.channels(weight, 1), axes.sums(1, 0)
    axes.equal(axes.of(data, 1), read)
    groups = int_of(node, "group", 1)
    if groups > 1:
        group = axes.free(groups)
        axes.equal(read, axes.times((group, axes.free((read.size or 0) // groups))))
        made = axes.times((group, made))
        axes.attribute("group", group)
    _outer(node, axes, made)


def _outer(node: ir.Node, axes: Axes, made: Layout) -> None:
    """The batch is handed on; what is made has a bias of its own."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    axes.equal(axes.of(data, 0), axes.of(output, 0))
    axes.equal(made, axes.of(output, 1))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        axes.equal(made, axes.of(bias, 0))


SPECS = (
    OpSpec(op_type="Conv", vjp=conv_gradient.RULES["Conv"],
           linear=conv_linear, macs=_conv, couple=_couple, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: 0, bias=2, kernel="QLinearConv")),
    OpSpec(op_type="ConvTranspose", vjp=conv_gradient.RULES["ConvTranspose"],
           linear=transposed_linear, macs=_conv_transpose, couple=_couple_transposed, quant=QuantRole(
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
