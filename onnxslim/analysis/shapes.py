"""Shapes and element types of all values, inferred without touching the model or its weights."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx.shape_inference

from onnxslim._ir import ir
from onnxslim.analysis.skeleton import joins_without_bound, skeleton, stored_tensor
from onnxslim.model.edit import subgraphs
from onnxslim.ops.spec import Dims, ShapeOf

__all__ = ["Shapes", "infer"]


@dataclass(frozen=True)
class Shapes:
    """What is known about the values of one model, at the moment of inference."""

    _types: Mapping[ir.Value, onnx.TypeProto]

    def shape(self, value: ir.Value) -> Dims | None:
        """Dimensions: an int, a name that means the same size everywhere, or None; None if all is unknown."""
        if value.is_initializer() and not value.is_graph_input() and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        known = self._types.get(value)
        producer = value.producer()
        if known is None and producer is not None:
            tensor = stored_tensor(producer)
            return None if tensor is None else tuple(tensor.shape.numpy())
        if known is not None and known.WhichOneof("value") == "tensor_type":
            if not known.tensor_type.HasField("shape"):
                return None
            return tuple(_dim(dim) for dim in known.tensor_type.shape.dim)
        if value.shape is None:
            return None
        return tuple(d if isinstance(d, int) else d.value for d in value.shape)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a tensor; None where it is unknown or the value is none."""
        known = self._types.get(value)
        if known is not None and known.WhichOneof("value") == "tensor_type":
            return ir.DataType(known.tensor_type.elem_type) if known.tensor_type.elem_type else None
        producer = value.producer()
        if known is None and producer is not None:
            tensor = stored_tensor(producer)
            return None if tensor is None else tensor.dtype
        return value.dtype if value.is_initializer() or isinstance(value.type, ir.TensorType) else None


def infer(
    model: ir.Model, dims: Mapping[str, int] = types.MappingProxyType({}), batch: int | None = None
) -> Shapes:
    """Infer shapes and types, in subgraphs too; never raises and leaves the model as it is.

    Args:
        dims: sizes for named dimensions of the inputs, ``{"batch": 1}``.
        batch: size of the first dimension of every input where it is not known otherwise.

    Only the outputs of nodes are inferred: what the file claims about them is not believed, since it may be
    stale.  Values inside functions differ from call to call and stay unknown.

    Example:
        >>> import onnx.parser
        >>> text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,n] x) => (y) { y = Transpose(x) }'
        >>> model = ir.from_proto(onnx.parser.parse_model(text))
        >>> infer(model).shape(model.graph.outputs[0])
        ('n', 2)
    """
    first, hidden = _infer(model, None, dims, batch)
    return _infer(model, first.shape, dims, batch)[0] if hidden else first


def _infer(
    model: ir.Model, shape_of: ShapeOf | None, dims: Mapping[str, int], batch: int | None
) -> tuple[Shapes, int]:
    try:
        proto, hidden = skeleton(model, shape_of, dims, batch)
        result = _run(proto.SerializeToString(), data_prop=not joins_without_bound(model.graph))
        found: dict[ir.Value, onnx.TypeProto] = {}
        _collect(model.graph, result.graph, found)
    except Exception:  # whatever an odd model provokes: nothing is known about it then
        return Shapes({}), 0
    return Shapes(found), hidden


def _run(serialized: bytes, *, data_prop: bool) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(serialized, data_prop=data_prop)
    except Exception:  # data propagation fails on some valid models, with errors of any kind
        return onnx.shape_inference.infer_shapes(serialized)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return str(dim.dim_param) or None


def _collect(graph: ir.Graph, proto: onnx.GraphProto, found: dict[ir.Value, onnx.TypeProto]) -> None:
    """Match a graph and its inferred skeleton: values by name, subgraphs by node and attribute."""
    types = {info.name: info.type for info in (*proto.value_info, *proto.input, *proto.output)}
    nodes = {node.name: node for node in proto.node if node.name.isdigit()}
    for value in graph.inputs:
        if value.name in types:
            found[value] = types[value.name]
    for index, node in enumerate(graph):
        for value in node.outputs:
            if value.name in types:
                found[value] = types[value.name]
        inner = list(subgraphs(node))
        if inner and (own := nodes.get(str(index))) is not None:
            protos = [g for a in own.attribute for g in (([a.g] if a.HasField("g") else []) + list(a.graphs))]
            for part, part_proto in zip(inner, protos, strict=False):
                _collect(part, part_proto, found)
