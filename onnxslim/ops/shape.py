"""Operators that read nothing of a tensor but its shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.adjoint import flat
from onnxslim.ops.attributes import int_of
from onnxslim.ops.coupling import Axes
from onnxslim.ops.spec import Array, OpSpec

__all__ = ["SPECS"]

Inputs = Sequence[Array | None]


def _dims(array: Array | None) -> Array:
    if array is None:
        raise ValueError("the input is missing")
    return np.array(array.shape, np.int64)


def _shape_of_dims(node: ir.Node, dims: Array) -> Array:
    """https://onnx.ai/onnx/operators/onnx__Shape.html: ``start`` and ``end`` are clamped to the rank."""
    rank = len(dims)
    bounds = (int_of(node, "start", 0), int_of(node, "end", rank))
    start, end = (min(max(bound + rank if bound < 0 else bound, 0), rank) for bound in bounds)
    return dims[start:end]


def _size_of_dims(node: ir.Node, dims: Array) -> Array | None:
    return None if (dims < 0).any() else np.array(np.prod(dims, dtype=np.int64), np.int64)


def _shape(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    return [_shape_of_dims(node, _dims(inputs[0]))]


def _size(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    return [np.array(np.prod(_dims(inputs[0]), dtype=np.int64), np.int64)]


def _rank_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return 8 * _dims(inputs[0]).size


def _any_axes(node: ir.Node, axes: Axes) -> None:
    """Its result follows the sizes of the axes by itself."""
    data = node.inputs[0]
    assert data is not None
    for axis in range(len(axes.dims(data))):
        axes.of(data, axis)


SPECS = (
    OpSpec(
        op_type="Shape",
        vjp=flat,
        couple=_any_axes,
        numpy=_shape,
        output_bytes=_rank_bytes,
        from_dims=_shape_of_dims,
    ),
    OpSpec(
        op_type="Size", vjp=flat, numpy=_size, output_bytes=lambda node, inputs: 8, from_dims=_size_of_dims
    ),
)
