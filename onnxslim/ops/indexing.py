"""Operators that pick, scatter, pad or reorder elements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops import indexing_axes, movement_axes
from onnxslim.ops.adjoint import flat
from onnxslim.ops.attributes import int_of, ints_of
from onnxslim.ops.movement import given
from onnxslim.ops.movement_gradient import RULES
from onnxslim.ops.sizes import array_bytes, elements_bytes, item_bytes, total_bytes
from onnxslim.ops.spec import Array, Declined, Facts, OpSpec, QuantRole, ShapeOf, first_input

__all__ = ["SPECS", "along", "along_several"]

Inputs = Sequence[Array | None]
Indexes = Callable[[ir.Node, ShapeOf], Iterable[tuple[int, int | str | None]]]


def _checked(indices: Array, size: int) -> Array:
    """Indices as the runtime takes them: negative ones count from the end, others are an error."""
    if indices.size and (int(indices.min()) < -size or int(indices.max()) >= size):
        raise ValueError("an index out of range")
    return indices.astype(np.int64)


def _gather(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    data, indices = given(inputs, 0), given(inputs, 1)
    axis = int_of(node, "axis", 0)
    return [np.take(data, _checked(indices, data.shape[axis]), axis)]


def _gather_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    data, indices = given(inputs, 0), given(inputs, 1)
    dims = list(data.shape)
    del dims[int_of(node, "axis", 0)]
    return elements_bytes([*dims, indices.size], item_bytes(data))


def _gather_elements(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    data, indices = given(inputs, 0), given(inputs, 1)
    axis = int_of(node, "axis", 0) % max(data.ndim, 1)
    for i, (size, wanted) in enumerate(zip(data.shape, indices.shape, strict=True)):
        if i != axis and wanted > size:
            raise ValueError("more indices than elements")
    where: list[Array] = list(np.indices(indices.shape, sparse=True))
    where[axis] = _checked(indices, data.shape[axis])
    return [data[tuple(where)]]


def _gather_elements_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return int(given(inputs, 1).size) * (item_bytes(given(inputs, 0)) + 8 * given(inputs, 1).ndim)


def _gather_nd(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    data, indices = given(inputs, 0), given(inputs, 1)
    if int_of(node, "batch_dims", 0):
        raise Declined("batches")
    if not 1 <= indices.shape[-1] <= data.ndim:
        raise ValueError("an index of wrong length")
    parts = [_checked(indices[..., i], data.shape[i]) for i in range(indices.shape[-1])]
    return [data[tuple(parts)]]


def _gather_nd_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    data, indices = given(inputs, 0), given(inputs, 1)
    length = indices.shape[-1] if indices.ndim else 0
    return elements_bytes([*indices.shape[:-1], *data.shape[length:]], item_bytes(data))


def _non_zero(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    data = given(inputs, 0)
    if data.ndim == 0 or data.dtype == np.object_:
        raise Declined("a scalar")
    return [np.stack(np.nonzero(data)).astype(np.int64)]


def _non_zero_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return int(given(inputs, 0).size) * max(1, given(inputs, 0).ndim) * 8


def _first_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return array_bytes(given(inputs, 0))


def _pads(node: ir.Node, inputs: Inputs) -> list[int]:
    """https://onnx.ai/onnx/operators/onnx__Pad.html: an attribute before operator set 11, an input since."""
    stored = ints_of(node, "pads") or ints_of(node, "paddings")
    return list(stored) if stored is not None else given(inputs, 1).ravel().tolist()


def _pad_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    data, pads = given(inputs, 0), _pads(node, inputs)
    axes = inputs[3].ravel().tolist() if len(inputs) > 3 and inputs[3] is not None else range(data.ndim)
    dims = list(data.shape)
    for i, axis in enumerate(axes):
        dims[axis] += pads[i] + pads[i + len(pads) // 2]
    return elements_bytes(dims, item_bytes(data))


def _pad_is_noop(node: ir.Node, facts: Facts) -> int | None:
    stored = ints_of(node, "pads") or ints_of(node, "paddings")
    if stored is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = facts.constant(node.inputs[1])
        stored = None if constant is None else constant.ravel().tolist()
    return 0 if stored is not None and not any(stored) else None


def _center_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    data, wanted = given(inputs, 0), given(inputs, 1).ravel().tolist()
    axes = ints_of(node, "axes") or range(data.ndim)
    dims = list(data.shape)
    for axis, size in zip(axes, wanted, strict=False):
        dims[axis] = size
    return elements_bytes(dims, item_bytes(data))


def _top_k_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return int(given(inputs, 0).size) * (item_bytes(given(inputs, 0)) + 8)


def _unique_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    return int(given(inputs, 0).size) * (item_bytes(given(inputs, 0)) + 3 * 8)


def along(attribute: str = "axis", data: int = 0, indices: int = 1) -> Indexes:
    """One input picks along one axis of another, the first where the attribute is left out."""

    def indexes(node: ir.Node, shape_of: ShapeOf) -> Iterable[tuple[int, int | str | None]]:
        picked = node.inputs[data] if len(node.inputs) > max(data, indices) else None
        dims, axis = None if picked is None else shape_of(picked), int_of(node, attribute, 0)
        if dims is not None and -len(dims) <= axis < len(dims):
            yield indices, dims[axis]

    return indexes


def along_several(node: ir.Node, shape_of: ShapeOf) -> Iterable[tuple[int, int | str | None]]:
    """A row of indices picks along as many axes as it is long, behind those of batches."""
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return
    dims, rows = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    first = int_of(node, "batch_dims", 0)
    if dims is not None and rows and isinstance(rows[-1], int):
        yield from ((1, size) for size in dims[first : first + rows[-1]])


_CHAIN = QuantRole()

SPECS = (
    OpSpec(op_type="Gather", indexes=along(), vjp=RULES["Gather"],
           couple=movement_axes.gather, numpy=_gather, output_bytes=_gather_bytes,
           moves=first_input, quant=_CHAIN),
    OpSpec(op_type="GatherElements", indexes=along(), vjp=RULES["GatherElements"],
           numpy=_gather_elements, output_bytes=_gather_elements_bytes,
           moves=first_input),
    OpSpec(op_type="GatherND", indexes=along_several, vjp=RULES["GatherND"], couple=indexing_axes.gather_nd,
           numpy=_gather_nd, output_bytes=_gather_nd_bytes, moves=first_input),
    OpSpec(op_type="NonZero", vjp=flat, numpy=_non_zero, output_bytes=_non_zero_bytes),
    OpSpec(op_type="Compress", couple=indexing_axes.beside_axis, output_bytes=total_bytes, moves=first_input),
    OpSpec(op_type="Scatter", indexes=along(), output_bytes=_first_bytes),
    OpSpec(op_type="ScatterElements", indexes=along(), vjp=RULES["ScatterElements"],
           output_bytes=_first_bytes),
    OpSpec(op_type="ScatterND", indexes=along_several, vjp=RULES["ScatterND"],
           couple=indexing_axes.scatter_nd, output_bytes=_first_bytes),
    OpSpec(op_type="TensorScatter", output_bytes=_first_bytes, moves=lambda node: (0, 1)),
    OpSpec(op_type="Pad", vjp=RULES["Pad"], couple=movement_axes.pad, output_bytes=_pad_bytes, sized_by=(1,),
           identity_input=_pad_is_noop, quant=QuantRole()),
    OpSpec(op_type="CenterCropPad", output_bytes=_center_bytes, sized_by=(1,)),
    OpSpec(op_type="ReverseSequence", couple=indexing_axes.reverse_sequence, output_bytes=_first_bytes,
           moves=first_input),
    OpSpec(op_type="TopK", vjp=RULES["TopK"], couple=indexing_axes.beside_axis, output_bytes=_top_k_bytes),
    OpSpec(op_type="Unique", output_bytes=_unique_bytes),
    OpSpec(op_type="NonMaxSuppression"),
)  # fmt: skip
