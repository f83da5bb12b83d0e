"""The stored tensors of a model that may stand for one another, and which graphs see which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxslim._ir import ir
from onnxslim.analysis.constants import tensor_of
from onnxslim.model import edit
from onnxslim.ops.registry import is_constant

__all__ = ["as_initializer", "nearest", "parents", "weights"]


def weights(model: ir.Model) -> Iterator[ir.Value]:
    """The values whose stored tensor every run reads: initializers, and Constant nodes of graphs.

    Not graph inputs, whose defaults callers may override.  Outer graphs come first, and in each the values
    that are its outputs: those stay whatever happens, so they are the ones to share.
    """
    for scope in edit.scopes(model):
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        found = [value for value in graph.initializers.values() if not value.is_graph_input()]
        if isinstance(scope, ir.Graph):  # a function can hold a constant in no other way
            found += [node.outputs[0] for node in scope if is_constant(node)]
        for value in sorted(found, key=lambda value: not value.is_graph_output()):
            if value.name and tensor_of(value) is not None:
                yield value


def parents(model: ir.Model) -> dict[ir.Graph, ir.Graph]:
    """Each subgraph -> the graph whose values it sees, that of its node."""
    found: dict[ir.Graph, ir.Graph] = {}
    for scope in edit.scopes(model):
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        found |= {inner: graph for node in scope for inner in edit.subgraphs(node)}
    return found


def nearest(
    graph: ir.Graph | None, found: Mapping[ir.Graph, ir.Value], around: Mapping[ir.Graph, ir.Graph]
) -> ir.Value | None:
    """The value that was found for ``graph`` itself or for the nearest graph around it."""
    while graph is not None:
        if graph in found:
            return found[graph]
        graph = around.get(graph)
    return None


def as_initializer(value: ir.Value) -> ir.Value:
    """The initializer that a weight is; a Constant node becomes one, so that the whole graph sees it."""
    node, tensor = value.producer(), tensor_of(value)
    if node is None:
        return value
    graph, name = node.graph, value.name
    assert isinstance(graph, ir.Graph) and tensor is not None and name is not None
    edit.store_constant(graph, value, tensor)
    edit.remove_node(node)
    return graph.initializers[name]
