"""Remove what no output depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of
from onnxslim.passes.base import Pass

__all__ = ["RemoveDeadCode"]


@dataclass(frozen=True)
class RemoveDeadCode(Pass):
    """Remove nodes, initializers and functions that no output depends on.

    1. A node none of whose outputs is read or is an output of its graph is removed, and then its producers in
       turn.  An operator that is neither specified nor a function of the model may have an effect, and stays.
       A node stays whole: a Split keeps an unread output, since dropping it would resize the others.
    2. An initializer that nobody reads is removed, unless it is an output or the default of an input.
    3. A function that no node calls is removed.

    Graph inputs always stay.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) { unread = Exp(x)  y = Neg(x) }'''))
        >>> RemoveDeadCode()(model).modified, len(model.graph)
        (True, 1)
    """

    name: ClassVar[str] = "remove-dead-code"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = self._remove_nodes(model)
        modified |= _remove_initializers(model)
        modified |= _remove_functions(model)
        return ir.passes.PassResult(model, modified)

    def _remove_nodes(self, model: ir.Model) -> bool:
        # A work list, popped from the end: with sorted graphs consumers go before their producers.
        work = [node for scope in edit.scopes(model) for node in scope]
        modified = False
        while work:
            node = work.pop()
            if node.graph is None or not _is_dead(node):
                continue
            if spec_of(node) is None and node.op_identifier() not in model.functions:
                reason = f"nobody reads it, but {node.op_type}, an unknown operator, may have an effect"
                self.decline(node.name or node.op_type, reason)
                continue
            inputs = list(_reads(node))
            edit.remove_node(node)
            work += [producer for value in inputs if (producer := value.producer()) is not None]
            modified = True
        return modified


def _is_dead(node: ir.Node) -> bool:
    return not any(value.is_graph_output() or value.uses() for value in node.outputs)


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node reads, itself or in its subgraphs."""
    yield from (value for value in node.inputs if value is not None)
    for graph in edit.subgraphs(node):
        for inner in graph:
            yield from _reads(inner)


def _remove_initializers(model: ir.Model) -> bool:
    modified = False
    for scope in edit.scopes(model):
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        for name, value in list(graph.initializers.items()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                del graph.initializers[name]
                modified = True
    return modified


def _remove_functions(model: ir.Model) -> bool:
    if not model.functions:
        return False
    called: set[ir.OperatorIdentifier] = set()
    work: list[ir.Graph | ir.Function] = [model.graph]
    while work:
        for node in work.pop().all_nodes():
            identifier = node.op_identifier()
            if identifier in model.functions and identifier not in called:
                called.add(identifier)
                work.append(model.functions[identifier])
    unused = model.functions.keys() - called
    for identifier in unused:
        del model.functions[identifier]
    return bool(unused)
