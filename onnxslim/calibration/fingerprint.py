"""The identity of a model for calibration: what it computes and how its tensors are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from onnxslim._ir import ir
from onnxslim.model.hashing import tensor_digest

__all__ = ["fingerprint"]


def fingerprint(model: ir.Model) -> str:
    """A sha256, as hex, over operators, attributes, tensor names and weights.

    Left out is what does not change a value: node names, documentation, metadata, shape annotations, and how
    the weights are stored.  Hence a model on disk, as a proto and in memory has one fingerprint.
    """
    digest = _Digest()
    digest.add("opsets", sorted(model.opset_imports.items()))
    _add_graph(digest, model.graph)
    for key in sorted(model.functions):
        digest.add("function", key)
        function = model.functions[key]
        digest.add("inputs", [value.name for value in function.inputs])
        _add_attributes(digest, function.attributes.values())
        _add_nodes(digest, function)
        digest.add("outputs", [value.name for value in function.outputs])
    return digest.hexdigest()


class _Digest:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *parts: Any) -> None:
        text = repr(parts).encode("utf-8", "surrogatepass")
        self._hash.update(len(text).to_bytes(8, "little") + text)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _add_graph(digest: _Digest, graph: ir.Graph) -> None:
    digest.add("inputs", [(value.name, str(value.type)) for value in graph.inputs])
    for name in sorted(graph.initializers):
        tensor = graph.initializers[name].const_value
        digest.add("initializer", name, None if tensor is None else tensor_digest(tensor))
    _add_nodes(digest, graph)
    digest.add("outputs", [value.name for value in graph.outputs])


def _add_nodes(digest: _Digest, nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        inputs = [None if value is None else value.name for value in node.inputs]
        outputs = [value.name for value in node.outputs]
        digest.add("node", node.domain, node.op_type, node.overload, inputs, outputs)
        _add_attributes(digest, node.attributes.values())


def _add_attributes(digest: _Digest, attributes: Iterable[ir.Attr]) -> None:
    for attribute in sorted(attributes, key=lambda attribute: attribute.name):
        digest.add("attribute", attribute.name, attribute.type.name, attribute.ref_attr_name)
        match attribute.type:
            case ir.AttributeType.GRAPH:
                _add_graph(digest, attribute.value)
            case ir.AttributeType.GRAPHS:
                for graph in attribute.value:
                    _add_graph(digest, graph)
            case ir.AttributeType.TENSOR:
                digest.add(tensor_digest(attribute.value))
            case ir.AttributeType.TENSORS:
                digest.add([tensor_digest(tensor) for tensor in attribute.value])
            case _:
                digest.add(str(attribute.value))
