"""A model without its weights, as a message that shape inference can read quickly and safely.

onnx's data propagation holds every element of a vector as a message of some fifty bytes, of whatever type, so
vectors of many elements must not become visible to it: their length is left open here.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping

import onnx

from onnxslim._ir import ir
from onnxslim.model.edit import constant_value, subgraphs
from onnxslim.ops.macs import dims_of, product
from onnxslim.ops.registry import is_constant, spec_of
from onnxslim.ops.spec import ShapeOf

__all__ = ["joins_without_bound", "skeleton", "stored_tensor"]

_KEPT = 64  # elements: shapes, axes and scales are no longer
_LONGEST = 1 << 12  # elements of a vector whose length may be known
_LARGEST = 1 << 21  # the same for a dimension of a matrix or more, from which a vector may be cut
_OPAQUE = "onnxslim.opaque"


def skeleton(
    model: ir.Model,
    shape_of: ShapeOf | None = None,
    dims: Mapping[str, int] = types.MappingProxyType({}),
    batch: int | None = None,
) -> tuple[onnx.ModelProto, int]:
    """The model's graph, functions and interface; tensors of many elements keep only their type.

    Args:
        shape_of: what an earlier inference has found, by which more may be shown.
        dims: sizes for named dimensions of the inputs.
        batch: size of the first dimension of every input where it is not known otherwise.

    Returns:
        the message, in which nodes that might make long vectors are hidden, and the number of those.
    """
    proto = onnx.ModelProto(ir_version=max(model.ir_version or 8, 8))
    for domain, version in {**model.opset_imports, _OPAQUE: 1}.items():
        proto.opset_import.add(domain=domain, version=version)
    for function in model.functions.values():
        proto.functions.append(ir.serde.serialize_function(function))
    hidden = _fill(proto.graph, model.graph, shape_of)
    for info in proto.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            size = dims.get(dim.dim_param, batch if axis == 0 else None)
            if size is not None and not dim.dim_value:
                dim.dim_value = size
    return proto, hidden


def _fill(proto: onnx.GraphProto, graph: ir.Graph, shape_of: ShapeOf | None) -> int:
    proto.name = "g"
    for value in graph.inputs:
        if value.name:
            _declare(proto.input.add(), value, keep_shape=True)
    for value in graph.outputs:
        _declare(proto.output.add(), value, keep_shape=value.is_graph_input())
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and value.name and not value.is_graph_input():
            _store(proto, value.name, tensor)
    return sum(_add_node(proto, node, str(index), shape_of) for index, node in enumerate(graph))


def _declare(info: onnx.ValueInfoProto, value: ir.Value, *, keep_shape: bool) -> None:
    ir.serde.serialize_value_into(info, value)
    if info.type.WhichOneof("value") == "tensor_type":
        tensor = info.type.tensor_type
        if not keep_shape:
            tensor.ClearField("shape")
        for dim in tensor.shape.dim:
            if dim.dim_value > (_LONGEST if len(tensor.shape.dim) == 1 else _LARGEST):
                dim.Clear()


def _store(proto: onnx.GraphProto, name: str, tensor: ir.TensorProtocol) -> None:
    """A small tensor with its content; of a larger one only what it is, as if it were an input."""
    dims = tensor.shape.numpy()
    if math.prod(dims) <= _KEPT and tensor.dtype != ir.DataType.STRING:
        stored = proto.initializer.add()
        ir.serde.serialize_tensor_into(stored, tensor)
        stored.name = name
        return
    shape = [None if dim > (_LONGEST if len(dims) == 1 else _LARGEST) else dim for dim in dims]
    proto.value_info.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), shape))


def _add_node(proto: onnx.GraphProto, node: ir.Node, name: str, shape_of: ShapeOf | None) -> int:
    constant = stored_tensor(node)
    if constant is not None:
        _store(proto, node.outputs[0].name or "", constant)
        return 0
    hidden = _may_grow(node, shape_of)
    target = proto.node.add(
        name=name,
        op_type=node.op_type,
        domain=_OPAQUE if hidden else node.domain,
        overload=node.overload,
        input=["" if value is None else value.name or "" for value in node.inputs],
        output=[value.name or "" for value in node.outputs],
    )
    if hidden:
        return 1
    below = 0
    for attribute in node.attributes.values():
        if attribute.is_ref():
            target.attribute.append(ir.serde.serialize_reference_attribute(attribute))
        elif attribute.type == ir.AttributeType.GRAPH:
            held = target.attribute.add(name=attribute.name, type=onnx.AttributeProto.GRAPH)
            below += _fill(held.g, attribute.as_graph(), shape_of)
        elif attribute.type == ir.AttributeType.GRAPHS:
            held = target.attribute.add(name=attribute.name, type=onnx.AttributeProto.GRAPHS)
            below += sum(_fill(held.graphs.add(), graph, shape_of) for graph in attribute.as_graphs())
        else:
            target.attribute.append(ir.serde.serialize_attribute(attribute))
    return below


def stored_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node; None for other nodes and other forms of content."""
    attribute = node.attributes.get("value") if is_constant(node) else None
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
        return None
    tensor: ir.TensorProtocol = attribute.value  # as_tensor() would check a whole protocol, each time
    return tensor


def _may_grow(node: ir.Node, shape_of: ShapeOf | None) -> bool:
    """Whether inputs' contents may make the output a long vector."""
    spec = spec_of(node)
    if spec is None or not spec.sized_by:
        return False
    for index in spec.sized_by:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        content = constant_value(value)
        if content is not None and content.dtype.kind in "iuf":
            longest = _LONGEST if content.size == 1 else _LARGEST
            if content.size and not abs(content.astype(float)).max() <= longest:
                return True
            if index != spec.dims_input or content.size != 1 or content.item() > 0:
                continue
            count = product(dims_of(node, 0, shape_of)) if shape_of is not None else None
            if count is None or count > _LONGEST:
                return True
        elif index == spec.dims_input and not _lists_several(value, shape_of):
            return True
    return False


def joins_without_bound(graph: ir.Graph) -> bool:
    """Whether vectors may be joined over and over, to one of more than ``_LARGEST`` elements."""
    bounds: dict[ir.Value, int] = {}
    for value in (*graph.inputs, *graph.initializers.values()):
        shape = value.shape
        if shape is not None and len(shape) == 1 and isinstance(shape[0], int):
            bounds[value] = min(shape[0], _LONGEST)
    for node in graph:
        if any(map(joins_without_bound, subgraphs(node))):
            return True
        lengths = [bounds.get(value, 1) for value in node.inputs if value is not None]
        spec, axis = spec_of(node), node.attributes.get("axis")
        joined = spec is not None and len(spec.moved_inputs(node)) > 1
        along_vectors = axis is None or axis.is_ref() or axis.value in (0, -1)
        bound = sum(lengths) if joined and along_vectors else max(lengths, default=1)
        if bound > _LARGEST:
            return True
        bounds.update(dict.fromkeys(node.outputs, bound))
    return False


def _lists_several(value: ir.Value, shape_of: ShapeOf | None) -> bool:
    """Whether computed dimensions are certainly several, or those of a tensor that is visible itself."""
    if shape_of is not None and (length := product(shape_of(value))) is not None:
        return length > 1
    producer = value.producer()
    spec = None if producer is None else spec_of(producer)
    if producer is None or spec is None:
        return False
    return spec.from_dims is not None or (len(producer.inputs) > 1 and len(spec.moved_inputs(producer)) > 1)
