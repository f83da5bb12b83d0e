"""Decide conditionals whose condition is constant."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.ops.branches import taken_branch
from onnxslim.passes.base import Pass

__all__ = ["InlineBranches"]


@dataclass(frozen=True)
class InlineBranches(Pass):
    """Put the nodes of the branch that is always taken in the place of an If; the other branch goes away.

    Values and nodes keep their names unless another scope of the model uses the same name.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) <bool c = {1}> { y = If(c) <
        ...         then_branch = t () => (float[2] a) { a = Neg(x) },
        ...         else_branch = e () => (float[2] b) { b = Exp(x) }> }'''))
        >>> InlineBranches()(model).modified, [node.op_type for node in model.graph]
        (True, ['Neg'])
    """

    name: ClassVar[str] = "inline-branches"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        names: Counter[str] = Counter()
        nodes: Counter[str] = Counter()
        modified = False
        work: list[edit.Scope] = [model.graph, *model.functions.values()]
        while work:
            scope = work.pop()
            inlined = False
            for node in scope:
                condition = edit.constant_value(node.inputs[0]) if node.inputs else None
                branch = taken_branch(node, condition) if condition is not None else None
                if branch is None:
                    work += edit.subgraphs(node)
                    continue
                if not names:
                    names.update(name for other in edit.scopes(model) for name in edit.value_names(other))
                    nodes.update(inner.name for other in edit.scopes(model) for inner in other if inner.name)
                for inner in branch:
                    _make_node_unique(inner, nodes)
                _inline(scope, node, branch, names)
                modified = inlined = True
            if inlined:
                work.append(scope)  # what has come in has not been visited
        return ir.passes.PassResult(model, modified)


def _inline(scope: edit.Scope, node: ir.Node, branch: ir.Graph, names: Counter[str]) -> None:
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in [*branch.initializers.values()]:
        assert value.name is not None and value.const_value is not None
        del branch.initializers[value.name]
        _make_unique(scope, value, names)
        if isinstance(scope, ir.Graph):
            scope.register_initializer(value)
        else:
            constant = edit.add_constant(scope, value.const_value, value.name, before=node)
            value.replace_all_uses_with(constant)
            results = [constant if result is value else result for result in results]
    moved = list(branch)
    branch.remove(moved)
    for inner in moved:
        for value in inner.outputs:
            _make_unique(scope, value, names)
    scope.insert_before(node, moved)
    for old, new in zip(node.outputs, results, strict=True):
        edit.replace_uses(old, new)
    edit.remove_node(node)


def _make_unique(scope: edit.Scope, value: ir.Value, names: Counter[str]) -> None:
    if value.name and names[value.name] > 1:
        names[value.name] -= 1
        value.name = edit.unique_name(scope, value.name)


def _make_node_unique(node: ir.Node, names: Counter[str]) -> None:
    """onnxruntime refuses two nodes of one name in a graph, though not in different scopes."""
    if not node.name or names[node.name] <= 1:
        return
    names[node.name] -= 1
    count = 1
    while names[f"{node.name}_{count}"]:
        count += 1
    node.name = f"{node.name}_{count}"
    names[node.name] += 1
