"""Topological order: sort what can be sorted, name a node of the cycle otherwise."""

from __future__ import annotations

import graphlib

from onnxslim._ir import ir
from onnxslim.errors import ModelError
from onnxslim.model.edit import Scope, subgraphs
from onnxslim.model.tensors import shown

__all__ = ["sort_model"]


def sort_model(model: ir.Model, where: str) -> None:
    """Sort all graphs and functions, stably.

    Raises:
        ModelError: naming a node on a cycle.
    """
    roots: list[Scope] = [model.graph, *model.functions.values()]
    for root in roots:
        try:
            root.sort()
        except ValueError:
            node = _node_on_cycle(root)
            at = (
                f"{where}, node {shown(node.name or node.outputs[0].name)} ({node.op_type})"
                if node
                else where
            )
            raise ModelError("the graph has a cycle", where=at, hint="export the model again") from None


def _node_on_cycle(root: Scope) -> ir.Node | None:
    """A node that needs its own output: what is left after taking away all that can be computed."""
    below: dict[ir.Node, ir.Node] = {}  # a nested node -> the root's own node that holds it
    own = list(iter(root))
    for holder in own:
        stack = [holder]
        while stack:
            node = stack.pop()
            below[node] = holder
            stack.extend(inner for graph in subgraphs(node) for inner in graph)
    needs: dict[ir.Node, set[ir.Node]] = {node: set() for node in own}
    for node, holder in below.items():
        for value in node.inputs:
            maker = below.get(value.producer()) if value is not None else None  # type: ignore[arg-type]
            if maker is not None and (maker is not holder or node is holder):
                needs[holder].add(maker)
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        return error.args[1][0]  # type: ignore[no-any-return]
    return None
