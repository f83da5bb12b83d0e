"""Shapes that inference over the whole model leaves open, found node by node with what is known on the way.

onnx's inference does not follow sizes through every computation (a Cast to int32, a division).  The walk over
the graph knows them, and hands them to the inference of a single node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import onnx
import onnx.defs
import onnx.shape_inference

from onnxslim._ir import ir
from onnxslim.analysis.channels.layout import Layout
from onnxslim.model.edit import subgraphs
from onnxslim.ops.attributes import int_of, opset_of
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import Array, Dims, Facts

__all__ = ["refined"]

Elements = Sequence[int | Layout | None]
Content = Callable[[ir.Value], Array | None]


def refined(
    node: ir.Node,
    facts: Facts,
    content_of: Content,
    elements_of: Callable[[ir.Value], Elements | None],
    extents_of: Callable[[ir.Value], Sequence[int | Layout]],
) -> dict[ir.Value, Dims]:
    """Shapes of a node's outputs from what is known about its inputs; empty where that does not say more.

    Args:
        content_of: small integer tensors that are known in full.
        elements_of: elements of vectors of integers: number, axis whose size it is, or None.
        extents_of: dimensions of a tensor: number, or the axis.
    """
    if next(iter(subgraphs(node)), None) is not None:
        return {}
    found = _inferred(node, facts, content_of)
    first = node.outputs[0]
    if not found or not all(isinstance(size, int) for size in found.get(first, ())):
        listed = _listed(node, facts, elements_of, extents_of)
        found |= {value: dims for value, dims in listed.items() if _better(dims, found.get(value))}
    return {value: dims for value, dims in found.items() if _better(dims, facts.shape(value))}


def _better(new: Dims, old: Dims | None) -> bool:
    if old is None or len(old) != len(new):
        return old is None
    return sum(isinstance(size, int) for size in new) > sum(isinstance(size, int) for size in old)


def _listed(
    node: ir.Node,
    facts: Facts,
    elements_of: Callable[[ir.Value], Elements | None],
    extents_of: Callable[[ir.Value], Sequence[int | Layout]],
) -> dict[ir.Value, Dims]:
    """The sizes in an input that lists those of the output; what is 1 there may be broadcast to more."""
    spec = spec_of(node)
    index = None if spec is None else spec.dims_input
    value = node.inputs[index] if index is not None and index < len(node.inputs) else None
    elements = None if value is None else elements_of(value)
    data = node.inputs[0] if index else None
    if spec is not None and spec.dims is not None:
        dims = spec.dims(node, facts.shape)
        return {} if dims is None else {node.outputs[0]: dims}
    if spec is None or elements is None or (data is not None and facts.shape(data) is None):
        return {}
    extents = [] if data is None else list(extents_of(data))
    if 0 in elements and int_of(node, "allowzero", 0):
        return {}
    sizes = list(elements)
    for place, size in enumerate(sizes):
        if size == 0:
            sizes[place] = extents[place] if place < len(extents) else None
    if -1 in sizes:
        sizes[sizes.index(-1)] = _rest(extents, sizes)
    return {node.outputs[0]: [size if isinstance(size, int) and size > 1 else None for size in sizes]}


def _rest(extents: Sequence[int | Layout], sizes: Elements) -> int | None:
    """The size that stands as -1: what is left when open axes have cancelled out."""
    given = [extent for extent in extents if not isinstance(extent, int)]
    for size in sizes:
        if size is None:
            return None
        if not isinstance(size, int):
            if not any(size is other for other in given):
                return None
            given = [other for other in given if other is not size]
    if given:
        return None
    known = prod(size for size in sizes if isinstance(size, int) and size != -1)
    return prod(extent for extent in extents if isinstance(extent, int)) // known if known else None


def _inferred(node: ir.Node, facts: Facts, content_of: Content) -> dict[ir.Value, Dims]:
    types: dict[str, onnx.TypeProto] = {}
    contents: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None:
            continue
        dims, dtype = (
            facts.shape(value),
            facts.dtype(value) or ir.DataType.FLOAT,
        )  # only few types matter here
        if value.name is None:
            return {}
        shape = None if dims is None else list(dims)
        types[value.name] = onnx.helper.make_tensor_type_proto(int(dtype), shape)
        content = content_of(value)
        if content is not None:
            contents[value.name] = onnx.numpy_helper.from_array(content.astype(dtype.numpy()), value.name)
    try:
        domain = "" if node.domain == "ai.onnx" else node.domain
        schema = onnx.defs.get_schema(node.op_type, opset_of(node) or onnx.defs.onnx_opset_version(), domain)
        made = onnx.shape_inference.infer_node_outputs(schema, ir.to_proto(node), types, contents)
    except Exception:  # whatever an odd node provokes: nothing more is known then
        return {}
    found: dict[ir.Value, Dims] = {}
    for value in node.outputs:
        tensor = made[value.name].tensor_type if value.name in made else None
        if tensor is not None and tensor.HasField("shape"):
            found[value] = [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                for dim in tensor.shape.dim
            ]
    return found
