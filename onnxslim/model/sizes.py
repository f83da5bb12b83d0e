"""How large the file of a model would be, without writing it."""

from __future__ import annotations

import math

import onnx

from onnxslim._ir import ir
from onnxslim.model.edit import subgraphs
from onnxslim.model.protos import tensors_of

__all__ = ["serialized_size", "tensor_size", "weight_bytes"]

_MANY = 1 << 12  # elements


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all tensors, in attributes too; for what need not be exact, since it costs a third."""
    return sum(tensor_size(tensor) for tensor in tensors_of(model))


def serialized_size(model: ir.Model) -> int:
    """Bytes of the saved file, external data included; exact but for a few bytes.

    Weights are neither read nor copied, so this is cheap for a model of any size.
    """
    shell = ir.Model(
        ir.Graph([], [], nodes=[], name=model.graph.name, doc_string=model.graph.doc_string),
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        metadata_props=dict(model.metadata_props),
    )
    shell.opset_imports.update(model.opset_imports)
    total = int(ir.to_proto(shell).ByteSize()) + _graph_size(model.graph)
    for function in model.functions.values():
        total += _delimited(int(ir.to_proto(function).ByteSize()))
    return total


def _graph_size(graph: ir.Graph) -> int:
    total = 0
    for value in (*graph.inputs, *graph.outputs):
        total += _delimited(int(ir.serde.serialize_value(value).ByteSize()))
    for value in graph.initializers.values():
        if value.const_value is not None:
            total += _delimited(tensor_size(value.const_value))
    for node in graph:
        total += _delimited(int(ir.serde.serialize_node(node).ByteSize()) - _unsaved(node))
        for value in node.outputs:
            if (
                not value.is_graph_output()
                and value.name
                and (value.type is not None or value.metadata_props)
            ):
                total += _delimited(int(ir.serde.serialize_value(value).ByteSize()))
    return total


def _unsaved(node: ir.Node) -> int:
    """Bytes that onnx_ir spends on types of initializers in its subgraphs, which saving omits."""
    return sum(
        _delimited(int(ir.serde.serialize_value(value).ByteSize()))
        for graph in subgraphs(node)
        for inner in (graph, *graph.subgraphs())
        for value in inner.initializers.values()
        if not value.is_graph_input()
    )


def tensor_size(tensor: ir.TensorProtocol) -> int:
    """Bytes of a tensor's message with its content inside."""
    if type(tensor) is ir.serde.TensorProtoTensor and not (
        tensor.raw.HasField("raw_data") and math.prod(tensor.raw.dims) > _MANY
    ):
        return int(
            tensor.raw.ByteSize()
        )  # quick, but it copies the content; typed data has a size of its own
    header = onnx.TensorProto(
        name=tensor.name or None,
        doc_string=tensor.doc_string or None,
        data_type=int(tensor.dtype),
        dims=tensor.shape.numpy(),
    )
    if tensor.dtype == ir.DataType.STRING:
        strings: list[bytes] = list(tensor.string_data())  # type: ignore[attr-defined]
        content = sum(_delimited(len(string)) for string in strings)
    else:
        content = _delimited(tensor.nbytes)
    return int(header.ByteSize()) + content


def _delimited(size: int) -> int:
    """A field's size with its tag and length prefix."""
    return 1 + max(1, (size.bit_length() + 6) // 7) + size
