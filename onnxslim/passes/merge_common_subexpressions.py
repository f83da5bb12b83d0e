"""Compute everything once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.model.hashing import attribute_key
from onnxslim.ops.registry import is_deterministic
from onnxslim.passes.base import Pass

__all__ = ["MergeCommonSubexpressions"]

_Known = dict[Hashable, ir.Node]


@dataclass(frozen=True)
class MergeCommonSubexpressions(Pass):
    """Merge nodes that compute the same from the same values, found by one hash look-up per node.

    Attributes are compared bit by bit, tensors by content.  A subgraph may reuse what an enclosing graph has
    computed before it, never the other way round.  Random and stateful operators, operators without a
    specification and nodes with subgraphs are left alone, and so is a node whose output would only be
    replaced by a copy (two graph outputs of equal content).

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) { a = Exp(x)  b = Exp(x)  y = Add(a, b) }'''))
        >>> MergeCommonSubexpressions()(model).modified, len(model.graph)
        (True, 2)
    """

    name: ClassVar[str] = "merge-common-subexpressions"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        roots: list[edit.Scope] = [model.graph, *model.functions.values()]
        for scope in roots:
            modified |= _merge(scope, {}, model)
        return ir.passes.PassResult(model, modified)


def _merge(scope: edit.Scope, known: _Known, model: ir.Model) -> bool:
    """Merge in ``scope``; ``known`` holds what enclosing graphs have computed, and leaves as it came."""
    modified = False
    added: list[Hashable] = []
    for node in scope:
        inner = list(edit.subgraphs(node))
        for graph in inner:
            modified |= _merge(graph, known, model)
        if inner or not is_deterministic(node, model):
            continue
        key = _key(node)
        first = known.get(key)
        if first is None:
            known[key] = node
            added.append(key)
        elif all(edit.can_replace(old, new) for old, new in zip(node.outputs, first.outputs, strict=True)):
            for old, new in zip(node.outputs, first.outputs, strict=True):
                edit.replace_uses(old, new)
            edit.remove_node(node)
            modified = True
    for key in added:
        del known[key]
    return modified


def _key(node: ir.Node) -> Hashable:
    return (
        node.op_identifier(),
        tuple(id(value) for value in node.inputs),
        tuple(bool(value.name) for value in node.outputs),
        tuple(sorted((name, attribute_key(attribute)) for name, attribute in node.attributes.items())),
    )
