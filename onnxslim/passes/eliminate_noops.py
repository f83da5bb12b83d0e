"""Remove nodes that only pass a value on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.analysis.facts import known_facts
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import Facts
from onnxslim.passes.base import Pass

__all__ = ["EliminateNoops"]


@dataclass(frozen=True)
class EliminateNoops(Pass):
    """Let the readers of a node whose output equals one of its inputs bit for bit read that input.

    Identity, Dropout at inference, a Cast to the same type, a Reshape to the same shape, Add of -0.0, Mul by
    1 and so on: each operator's specification says when.  A node stays where it is what gives a graph output
    its name: an output that equals an input, an initializer, another output or a value of an outer scope.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) { a = Identity(x)  y = Neg(a) }'''))
        >>> EliminateNoops()(model).modified, [node.op_type for node in model.graph]
        (True, ['Neg'])
    """

    name: ClassVar[str] = "eliminate-noops"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        facts = known_facts(model)
        modified = False
        for scope in edit.scopes(model):
            for node in scope:
                source = _passed_on(node, facts)
                if source is None or not edit.can_replace(node.outputs[0], source):
                    continue
                output = node.outputs[0]
                source.type = source.type or output.type
                source.shape = source.shape or output.shape
                edit.replace_uses(output, source)
                edit.remove_node(node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _passed_on(node: ir.Node, facts: Facts) -> ir.Value | None:
    """The input that the only output of ``node`` in use equals."""
    spec = spec_of(node)
    if spec is None or spec.identity_input is None:
        return None
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return None
    index = spec.identity_input(node, facts)
    return None if index is None else node.inputs[index]
