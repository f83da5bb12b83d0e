"""Walks over protobuf messages, and the way from an ``ir.Model`` back to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from onnxslim._ir import ir
from onnxslim.model.edit import scopes
from onnxslim.model.hashing import content_chunks, is_external

__all__ = ["graphs_of", "inlined", "map_tensors", "node_count", "nodes_of", "tensors_of"]


def graphs_of(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every subgraph, also those inside functions."""
    yield from _with_subgraphs(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _in_node(node)


def _with_subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from _in_node(node)


def _in_node(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from _with_subgraphs(attribute.g)
        for graph in attribute.graphs:
            yield from _with_subgraphs(graph)


def nodes_of(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, in subgraphs and functions too."""
    for graph in graphs_of(proto):
        yield from graph.node
    for function in proto.functions:
        yield from function.node


def tensors_of(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor of a model: initializers, and tensors in node attributes, in all scopes."""
    for scope in scopes(model):
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.value
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.value


def map_tensors(model: ir.Model, change: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> ir.Model:
    """A clone of ``model`` with ``change`` made to each initializer's tensor; shape and type must stay.

    Tensors in attributes come into memory, for onnxruntime reads no external data there.
    """
    clone = model.clone()
    for scope in scopes(clone):
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = change(value.const_value)
        for node in graph:
            for attribute in list(node.attributes.values()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    tensor = inlined(attribute.value)
                    node.attributes.add(ir.AttrTensor(attribute.name, tensor, attribute.doc_string))
                elif attribute.type == ir.AttributeType.TENSORS:
                    tensors = [inlined(tensor) for tensor in attribute.value]
                    node.attributes.add(ir.AttrTensors(attribute.name, tensors, attribute.doc_string))
    return clone


def inlined(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor with its content in memory, where it was in external data."""
    if not is_external(tensor):
        return tensor
    content = np.frombuffer(b"".join(content_chunks(tensor)), np.uint8)
    shape = ir.Shape(tensor.shape.numpy())
    kept: dict[str, Any] = {
        "name": tensor.name,
        "doc_string": tensor.doc_string,
        "metadata_props": dict(tensor.metadata_props),
    }
    if tensor.dtype.bitwidth < 8:
        return ir.PackedTensor(content, tensor.dtype, shape=shape, **kept)
    array = content.view(tensor.dtype.numpy()).reshape(tensor.shape.numpy())
    return ir.Tensor(array, tensor.dtype, shape=shape, **kept)


def node_count(model: ir.Model) -> int:
    """Nodes in all graphs and functions together."""
    return sum(len(scope) for scope in scopes(model))
