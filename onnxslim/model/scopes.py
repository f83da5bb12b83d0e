"""The graphs of a model at any depth, and what they name."""

from __future__ import annotations

from collections.abc import Iterator

from onnxslim._ir import ir

__all__ = ["Scope", "graphs", "nested", "scopes", "subgraphs", "value_names"]

Scope = ir.Graph | ir.Function


def scopes(model: ir.Model) -> Iterator[Scope]:
    """Every graph of a model: the main graph and its subgraphs at any depth, then the same of each function.

    Safe against changes of the model while iterating over one scope; outer scopes come before inner ones.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], name="main")
        >>> [scope.name for scope in scopes(ir.Model(graph, ir_version=10))]
        ['main']
    """
    yield from nested(model.graph)
    for function in model.functions.values():
        yield from nested(function)


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and its subgraphs at any depth, without what functions hold."""
    for scope in nested(model.graph):
        assert isinstance(scope, ir.Graph)
        yield scope


def nested(scope: Scope) -> Iterator[Scope]:
    """A scope and the graphs that its nodes hold, at any depth."""
    yield scope
    for node in tuple(iter(scope)):
        for graph in subgraphs(node):
            yield from nested(graph)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in a node's own attributes (branches and bodies), not those nested deeper."""
    for attribute in node.attributes.data.values():  # asked for at every turn: past the UserDict's own views
        kind = attribute.type
        if kind == ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
        elif kind == ir.AttributeType.GRAPHS and not attribute.is_ref():
            yield from attribute.as_graphs()


def value_names(scope: Scope) -> Iterator[str]:
    """The names that a scope itself defines: inputs, initializers and node outputs."""
    graph = scope.graph if isinstance(scope, ir.Function) else scope
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.name:
            yield value.name
    for node in graph:
        for value in node.outputs:
            if value.name:
                yield value.name
