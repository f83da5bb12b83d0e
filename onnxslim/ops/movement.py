"""Operators that only move elements: reshaping, joining, cutting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops import movement_axes
from onnxslim.ops.attributes import has, int_of, ints_of
from onnxslim.ops.movement_gradient import RULES
from onnxslim.ops.noop import one_input, same_shape
from onnxslim.ops.sizes import array_bytes, broadcast_dims, elements_bytes, item_bytes
from onnxslim.ops.spec import Array, Declined, Facts, OpSpec, QuantRole, every_input, first_input

__all__ = ["SPECS", "axes_of"]

Inputs = Sequence[Array | None]


def given(inputs: Inputs, index: int) -> Array:
    """An input that has to be there."""
    array = inputs[index] if index < len(inputs) else None
    if array is None:
        raise ValueError(f"input {index} is missing")
    return array


def axes_of(node: ir.Node, inputs: Inputs, index: int = 1) -> tuple[int, ...] | None:
    """``axes``, an attribute in older operator sets and an input in newer ones; None where absent."""
    if has(node, "axes"):
        axes = ints_of(node, "axes")
        return None if axes is None else tuple(axes)
    array = inputs[index] if index < len(inputs) else None
    return None if array is None else tuple(int(axis) for axis in array.ravel())


def _normal(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def _identity(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    return [given(inputs, 0)]


def _reshape(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    """https://onnx.ai/onnx/operators/onnx__Reshape.html: 0 copies a dimension unless ``allowzero``."""
    data = given(inputs, 0)
    target = [int(d) for d in given(inputs, 1)]
    if not int_of(node, "allowzero", 0):
        target = [data.shape[i] if d == 0 else d for i, d in enumerate(target)]
    if min(target, default=0) < -1 or (-1 in target and 0 in target):
        raise Declined("an undetermined dimension")
    return [data.reshape(target)]


def _flatten(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    data = given(inputs, 0)
    axis = int_of(node, "axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    if not 0 <= axis <= data.ndim:
        raise ValueError("axis out of range")
    rows = int(np.prod(data.shape[:axis], dtype=object))
    columns = int(np.prod(data.shape[axis:], dtype=object))
    return [data.reshape(rows, columns)]


def _squeeze(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    data, axes = given(inputs, 0), axes_of(node, inputs)
    if axes is None:
        return [data.reshape([d for d in data.shape if d != 1])]
    return [np.squeeze(data, tuple({_normal(axis, data.ndim) for axis in axes}))]


def _unsqueeze(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    axes = axes_of(node, inputs)
    if axes is None:
        raise ValueError("no axes")
    return [np.expand_dims(given(inputs, 0), axes)]


def _transpose(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    return [np.ascontiguousarray(np.transpose(given(inputs, 0), ints_of(node, "perm")))]


def _concat(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    if not has(node, "axis"):
        raise Declined("the axis is missing, which only the first operator set allows")
    return [np.concatenate([given(inputs, i) for i in range(len(inputs))], int_of(node, "axis", 0))]


def _split(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    """https://onnx.ai/onnx/operators/onnx__Split.html: sizes as attribute, as input, or a number of parts."""
    data = given(inputs, 0)
    axis = _normal(int_of(node, "axis", 0), data.ndim)
    total, count = data.shape[axis], len(node.outputs)
    sizes = ints_of(node, "split")
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = [int(size) for size in inputs[1]]
    if sizes is None:
        chunk = -(-total // int_of(node, "num_outputs", count))
        sizes = [chunk] * (count - 1) + [total - chunk * (count - 1)]
        if not has(node, "num_outputs") and total % count:
            raise Declined("parts of unequal size")
    if sum(sizes) != total or len(sizes) != count or min(sizes) < 0:
        raise ValueError("the parts do not make the whole")
    return [np.ascontiguousarray(part) for part in np.split(data, np.cumsum(sizes)[:-1], axis)]


def _slice(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    """https://onnx.ai/onnx/operators/onnx__Slice.html: attributes before operator set 10, inputs since."""
    data = given(inputs, 0)
    return [np.ascontiguousarray(data[slices(node, inputs, data.shape)])]


def slices(node: ir.Node, inputs: Inputs, shape: Sequence[int]) -> tuple[slice, ...]:
    """What a Slice keeps of each axis."""
    if has(node, "starts"):
        starts, ends = list(ints_of(node, "starts") or ()), list(ints_of(node, "ends") or ())
        axes, steps = ints_of(node, "axes"), None
    else:
        starts, ends = given(inputs, 1).tolist(), given(inputs, 2).tolist()
        axes = axes_of(node, inputs, 3)
        steps = None if len(inputs) < 5 or inputs[4] is None else inputs[4].tolist()
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    kept = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = _normal(axis, len(shape))
        if kept[axis] != slice(None):
            raise Declined("an axis is cut twice")
        kept[axis] = _kept(start, end, step, shape[axis])
    return tuple(kept)


def _kept(start: int, end: int, step: int, size: int) -> slice:
    if step == 0:
        raise ValueError("a step of zero")
    if step < 0 and end >= 2**31 - 1:
        raise Declined("an end beyond the end, going backwards: the runtime takes it for the front")
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step) if size else slice(0, 0)


def _expand(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    data = given(inputs, 0)
    target = [int(d) for d in given(inputs, 1)]
    if min(target, default=0) < 0:
        raise ValueError("a negative dimension")
    return [np.ascontiguousarray(np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(target))))]


def _expand_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    data = given(inputs, 0)
    return elements_bytes(broadcast_dims(data.shape, given(inputs, 1).ravel().tolist()), item_bytes(data))


def _tile(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    data, repeats = given(inputs, 0), given(inputs, 1)
    if repeats.shape != (data.ndim,) or (repeats < 0).any():
        raise ValueError("repeats do not fit")
    return [np.tile(data, repeats.tolist())]


def _tile_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    data = given(inputs, 0)
    return elements_bytes((max(r, 0) for r in given(inputs, 1).ravel().tolist()), array_bytes(data))


def _moved_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return sum(array_bytes(array) for array in inputs if array is not None)


def _transpose_is_noop(node: ir.Node, facts: Facts) -> int | None:
    perm = ints_of(node, "perm")
    return (
        0 if perm is not None and list(perm) == list(range(len(perm))) else same_shape_of_vector(node, facts)
    )


def same_shape_of_vector(node: ir.Node, facts: Facts) -> int | None:
    """Transposing a tensor of rank 0 or 1 changes nothing."""
    dims = None if node.inputs[0] is None else facts.shape(node.inputs[0])
    return 0 if dims is not None and len(dims) < 2 and not has(node, "perm") else None


def _slice_is_noop(node: ir.Node, facts: Facts) -> int | None:
    """Every axis is kept from its first to its last element; the size of an axis need not be known."""
    data = node.inputs[0]
    dims = None if data is None else facts.shape(data)
    if dims is None:
        return None
    inputs = [None if value is None else facts.constant(value) for value in node.inputs]
    if any(
        array is None and value is not None for array, value in zip(inputs[1:], node.inputs[1:], strict=True)
    ):
        return None
    endless = 2**31 - 1  # what exporters write for the end of an axis, at least
    sizes = [d if isinstance(d, int) else endless for d in dims]
    try:
        kept = slices(node, inputs, sizes)
    except (ArithmeticError, TypeError, ValueError):
        return None
    whole = (cut in (slice(None), slice(0, size, 1)) for cut, size in zip(kept, sizes, strict=True))
    return 0 if all(whole) else None


def _tile_is_noop(node: ir.Node, facts: Facts) -> int | None:
    repeats = facts.constant(node.inputs[1]) if len(node.inputs) == 2 and node.inputs[1] is not None else None
    return 0 if repeats is not None and (repeats == 1).all() else None


_CHAIN = QuantRole()  # Quantize- and DequantizeLinear around it cancel: no kernel of its own is needed

SPECS = (
    OpSpec(
        op_type="Identity", vjp=RULES["Identity"],
        numpy=_identity, output_bytes=_moved_bytes, moves=first_input, quant=_CHAIN,
        identity_input=lambda node, facts: 0, elementwise=True, homogeneous=first_input,
    ),
    OpSpec(
        op_type="Reshape", vjp=RULES["Reshape"],
        couple=movement_axes.reshape,
        sized_by=(1,), dims_input=1, numpy=_reshape,
        output_bytes=_moved_bytes, moves=first_input, quant=_CHAIN,
        identity_input=same_shape,
    ),
    OpSpec(
        op_type="Flatten", vjp=RULES["Flatten"],
        couple=movement_axes.flatten,
        numpy=_flatten, output_bytes=_moved_bytes, moves=first_input, quant=_CHAIN,
        identity_input=same_shape,
    ),
    OpSpec(
        op_type="Squeeze", vjp=RULES["Squeeze"],
        couple=movement_axes.squeeze,
        numpy=_squeeze, output_bytes=_moved_bytes, moves=first_input, quant=_CHAIN,
        identity_input=same_shape,
    ),
    OpSpec(
        op_type="Unsqueeze", vjp=RULES["Unsqueeze"],
        couple=movement_axes.unsqueeze,
        numpy=_unsqueeze, output_bytes=_moved_bytes, moves=first_input, quant=_CHAIN,
        identity_input=same_shape,
    ),
    OpSpec(
        op_type="Transpose", vjp=RULES["Transpose"],
        couple=movement_axes.transpose,
        numpy=_transpose, output_bytes=_moved_bytes, moves=first_input, quant=_CHAIN,
        identity_input=_transpose_is_noop,
    ),
    OpSpec(
        op_type="Concat", vjp=RULES["Concat"],
        couple=movement_axes.concat,
        numpy=_concat, output_bytes=_moved_bytes, moves=every_input,
        identity_input=one_input, quant=QuantRole(inputs=None, kernel="QLinearConcat"),
    ),
    OpSpec(
        op_type="Split", vjp=RULES["Split"],
        couple=movement_axes.split,
        numpy=_split, output_bytes=_moved_bytes, moves=first_input, quant=_CHAIN,
        identity_input=lambda node, facts: 0 if len(node.outputs) == 1 else None,
    ),
    OpSpec(
        op_type="Slice", vjp=RULES["Slice"],
        couple=movement_axes.slice_,
        numpy=_slice, output_bytes=_moved_bytes, moves=first_input, quant=_CHAIN,
        identity_input=_slice_is_noop,
    ),
    OpSpec(
        op_type="Expand", vjp=RULES["Expand"],
        couple=movement_axes.expand,
        dims_input=1, numpy=_expand, output_bytes=_expand_bytes, sized_by=(1,),
        moves=first_input, identity_input=same_shape, quant=_CHAIN,
    ),
    OpSpec(
        op_type="Tile", vjp=RULES["Tile"],
        couple=movement_axes.tile,
        numpy=_tile, output_bytes=_tile_bytes, sized_by=(1,), moves=first_input, quant=_CHAIN,
        identity_input=_tile_is_noop,
    ),
)  # fmt: skip
