"""Shapes and element types of every value, without touching the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from onnxslim._ir import ir
from onnxslim.ops.registry import is_constant

__all__ = ["Dim", "Shapes", "infer"]

_log = logging.getLogger(__name__)

Dim = int | str | None

_KEEP_BYTES = 1024  # constants up to this size travel along: shape computations read them


@dataclass(frozen=True)
class Shapes:
    """What inference found, beside what the model itself declares.

    Attributes:
        inferred: value -> (element type or None, shape or None).
    """

    inferred: dict[ir.Value, tuple[ir.DataType | None, tuple[Dim, ...] | None]]

    def shape(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """The dimensions: an int, a symbol, or None where unknown; None for an unknown rank."""
        if value is None:
            return None
        if value.const_value is not None:
            return tuple(int(d) for d in value.const_value.shape.numpy())
        found = self.inferred.get(value, (None, None))[1]
        own = _dims(value.shape)
        if found is None or own is None or len(found) != len(own):
            return found if own is None else own
        return tuple(
            b if isinstance(b, int) else a if a is not None else b for a, b in zip(own, found, strict=True)
        )

    def static(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """The shape where every dimension is known, else None."""
        shape = self.shape(value)
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        return tuple(dim for dim in shape if isinstance(dim, int))

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """The element type; None where unknown or where the value is no tensor."""
        if value is None:
            return None
        if value.const_value is not None:
            return value.const_value.dtype
        if isinstance(value.type, ir.TensorType):
            return value.type.dtype
        return self.inferred.get(value, (None, None))[0]


def infer(model: ir.Model) -> Shapes:
    """Infer shapes with onnx's own inference, data propagation included; never raises.

    Weights are not serialised: large constants travel as inputs of the same type and shape.

    Example:
        >>> x = ir.Value(name="x", shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))
        >>> node = ir.node("Transpose", [x])
        >>> node.outputs[0].name = "y"
        >>> graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17}, name="g")
        >>> infer(ir.Model(graph, ir_version=8)).shape(node.outputs[0])
        (3, 2)
    """
    found: dict[ir.Value, tuple[ir.DataType | None, tuple[Dim, ...] | None]] = {}
    try:
        proto = ir.to_proto(_without_weights(model))
        annotated = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        _collect(annotated.graph, model.graph, found)
    except Exception:  # a model beyond inference is still a model; what is declared must do
        _log.debug("shape inference failed", exc_info=True)
    return Shapes(found)


def _without_weights(model: ir.Model) -> ir.Model:
    """A copy in which the main graph's large constants are inputs."""
    copy = model.clone()
    graph = copy.graph
    for value in list(graph.initializers.values()):
        if value.name and value.const_value is not None and value.const_value.nbytes > _KEEP_BYTES:
            del graph.initializers[value.name]
            if not value.is_graph_input():
                graph.inputs.append(_input_like(value.name, value.const_value))
    for node in list(graph):
        tensor = _large_constant(node)
        if tensor is None or node.outputs[0].is_graph_output():
            continue
        replacement = _input_like(node.outputs[0].name or "", tensor)
        ir.convenience.replace_all_uses_with(node.outputs[0], replacement)
        graph.remove(node)
        graph.inputs.append(replacement)
    return copy


def _large_constant(node: ir.Node) -> ir.TensorProtocol | None:
    attribute = node.attributes.get("value") if is_constant(node) else None
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
        return None
    tensor = attribute.as_tensor()
    return tensor if tensor.nbytes > _KEEP_BYTES else None


def _input_like(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape([int(dim) for dim in tensor.shape.numpy()])
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape)


def _collect(
    proto: onnx.GraphProto,
    graph: ir.Graph,
    found: dict[ir.Value, tuple[ir.DataType | None, tuple[Dim, ...] | None]],
) -> None:
    """Read the annotations of a graph and, in step, of its subgraphs."""
    infos = {info.name: info for info in (*proto.value_info, *proto.output)}
    kept = {name for node in proto.node for name in node.output}
    nodes = [node for node in graph if _large_constant(node) is None or node.outputs[0].name in kept]
    for node_proto, node in zip(proto.node, nodes, strict=True):
        for value in node.outputs:
            info = infos.get(value.name or "")
            if info is not None and info.type.HasField("tensor_type"):
                found[value] = _read(info.type.tensor_type)
        for inner_proto, inner in zip(_proto_subgraphs(node_proto), _subgraphs(node), strict=True):
            _collect(inner_proto, inner, found)


def _proto_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _read(proto: onnx.TypeProto.Tensor) -> tuple[ir.DataType | None, tuple[Dim, ...] | None]:
    dtype = ir.DataType(proto.elem_type) if proto.elem_type else None
    if not proto.HasField("shape"):
        return dtype, None
    return dtype, tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in proto.shape.dim
    )


def _dims(shape: ir.Shape | None) -> tuple[Dim, ...] | None:
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
