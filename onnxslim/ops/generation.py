"""Operators that make a tensor from a few numbers: the ones that can make gigabytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops import movement_gradient
from onnxslim.ops.adjoint import flat
from onnxslim.ops.coupling import Axes, same_axes
from onnxslim.ops.movement import given
from onnxslim.ops.sizes import elements_bytes, item_bytes
from onnxslim.ops.spec import Array, Declined, OpSpec

__all__ = ["SPECS"]

Inputs = Sequence[Array | None]
_EXACT_IN_DOUBLE = 1 << 53


def _fill(node: ir.Node) -> Array:
    attribute = node.attributes.get("value")
    return np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy().reshape(-1)


def _constant_of_shape(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    dims, fill = given(inputs, 0).ravel().tolist(), _fill(node)
    if fill.size != 1 or min(dims, default=0) < 0:
        raise ValueError("no single value, or a negative dimension")
    return [np.full(dims, fill[0], fill.dtype)]


def _constant_of_shape_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return elements_bytes(given(inputs, 0).ravel().tolist(), max(1, item_bytes(_fill(node))))


def _range(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    """Integers only: floats would have to be added up in the runtime's own order."""
    start, limit, delta = (given(inputs, i) for i in range(3))
    if start.dtype not in (np.int16, np.int32, np.int64):
        raise Declined("a range of floats")
    first, last, step = (int(array.item()) for array in (start, limit, delta))
    if step == 0 or max(abs(first), abs(last), abs(step)) >= _EXACT_IN_DOUBLE // 2:
        raise Declined("bounds beyond what the runtime counts exactly")
    return [np.arange(first, last, step, dtype=start.dtype)]


def _range_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    start, limit, delta = (given(inputs, i) for i in range(3))
    if start.dtype.kind in "iu":
        first, last, step = (int(array.item()) for array in (start, limit, delta))
        count = -((first - last) // step) if step else 0
    else:
        span, by = float(limit.item()) - float(start.item()), float(delta.item())
        ratio = span / by if by else 0.0
        if not np.isfinite(ratio):
            return None
        count = int(ratio) + 1
    return elements_bytes([count], item_bytes(start))


def _one_hot_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    indices, depth, values = (given(inputs, i) for i in range(3))
    return elements_bytes([*indices.shape, int(depth.ravel()[0])], item_bytes(values))


def _like_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return given(inputs, 0).size * 8


def _window_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return elements_bytes([int(given(inputs, 0).item())], 8)


def _mel_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    bins, length = int(given(inputs, 0).item()), int(given(inputs, 1).item())
    return elements_bytes([bins, length // 2 + 1], 8)


def _constant_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    attribute = node.attributes.get("value")
    return None if attribute is None else int(attribute.as_tensor().nbytes)


def _tri_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return given(inputs, 0).size * item_bytes(given(inputs, 0))


def _filled(node: ir.Node, axes: Axes) -> None:
    """One number everywhere: as long as the shape says."""
    target, output = node.inputs[0], node.outputs[0]
    assert target is not None
    for axis in range(len(axes.dims(output))):
        axes.holds(0, axis, axes.of(output, axis))


def _triangle(node: ir.Node, axes: Axes) -> None:
    """Positions along the last two axes count."""
    same_axes(node, axes, but=(-2, -1))


SPECS = (
    OpSpec(op_type="Constant", output_bytes=_constant_bytes),
    OpSpec(
        op_type="ConstantOfShape",
        vjp=flat,
        couple=_filled,
        numpy=_constant_of_shape,
        output_bytes=_constant_of_shape_bytes,
        sized_by=(0,),
        dims_input=0,
    ),
    OpSpec(op_type="Range", numpy=_range, output_bytes=_range_bytes, sized_by=(0, 1, 2)),
    OpSpec(op_type="EyeLike", vjp=flat, output_bytes=_like_bytes),
    OpSpec(op_type="OneHot", output_bytes=_one_hot_bytes, sized_by=(1,)),
    OpSpec(op_type="Trilu", vjp=movement_gradient.RULES["Trilu"], couple=_triangle, output_bytes=_tri_bytes),
    OpSpec(op_type="MelWeightMatrix", output_bytes=_mel_bytes, sized_by=(0, 1)),
    *(
        OpSpec(op_type=f"{name}Window", output_bytes=_window_bytes)
        for name in ("Blackman", "Hamming", "Hann")
    ),
)
