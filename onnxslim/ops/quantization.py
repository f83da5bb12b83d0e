"""Between floats and integers by a scale and a zero point."""

from __future__ import annotations

from onnxslim._ir import ir
from onnxslim.ops import quantization_gradient
from onnxslim.ops.attributes import int_of
from onnxslim.ops.coupling import Axes, Layout, same_axes
from onnxslim.ops.sizes import broadcast_bytes
from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS", "couple_scales"]


def couple_scales(node: ir.Node, axes: Axes) -> None:
    """Scales and zero points: one, one for each index of an axis, or one for each block along it.

    Spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """
    data = node.inputs[0]
    assert data is not None
    same_axes(node, axes)
    rank = len(axes.dims(data))
    along = int_of(node, "axis", 1)
    for value in node.inputs[1:]:
        dims = axes.dims(value)
        if value is None or not dims or dims == (1,):
            continue
        places = [(0, along)] if len(dims) == 1 else [(axis, axis) for axis in range(len(dims))]
        for own, axis in places:
            if len(dims) == 1 or len(dims) == rank:
                _tie(axes.of(value, own), axes.of(data, axis), axes)


def _tie(scale: Layout, data: Layout, axes: Axes) -> None:
    count, size = scale.size, data.size
    if count is not None and size is not None and count and size % count == 0:
        block = axes.fixed(size // count, "blocks of it share a scale")
        axes.equal(data, axes.times((scale, block)))
    else:
        axes.pin(scale, "its scales are not one for each")
        axes.pin(data, "its scales are not one for each")


SPECS = (
    OpSpec(
        op_type="QuantizeLinear",
        vjp=quantization_gradient.RULES["QuantizeLinear"],
        couple=couple_scales,
        output_bytes=broadcast_bytes,
    ),
    OpSpec(
        op_type="DequantizeLinear",
        foldable=False,  # of floats no integer kernel is made, or one with another rounding
        vjp=quantization_gradient.RULES["DequantizeLinear"],
        couple=couple_scales,
        output_bytes=broadcast_bytes,
    ),
    OpSpec(op_type="DynamicQuantizeLinear"),
)
