"""Nodes without a gradient of their own, written as others that have one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx.defs

from onnxslim._ir import inline_functions, ir
from onnxslim.distillation._emitter import Emitter
from onnxslim.distillation._facts import Refined
from onnxslim.distillation._prepare import Step, captured, reach
from onnxslim.model import edit
from onnxslim.ops.adjoint import Tape, Undifferentiable
from onnxslim.ops.attributes import opset_of
from onnxslim.ops.registry import spec_of

__all__ = ["expand"]

_DEPTH = 8  # what an operator expands to may have to be expanded again
_BODIES = "onnxslim.bodies"


def expand(step: Step, loss: ir.Value) -> dict[ir.Node, str]:
    """Replace the nodes between what is differentiated by and the loss that have no rule.

    Returns:
        why a node could not be replaced.
    """
    refused: dict[ir.Node, str] = {}
    for _ in range(_DEPTH):
        nodes = [node for node in _between(step, loss) if node not in refused and _open(node)]
        if not nodes:
            break
        facts = Refined(step.model)
        for node in nodes:
            try:
                _replace(step, node, facts)
            except Undifferentiable as error:
                refused[node] = str(error)
        if _BODIES in step.model.opset_imports:
            inline_functions(step.model)
            step.model.opset_imports.pop(_BODIES, None)
            edit.know_names(step.model)
    return refused


def _between(step: Step, loss: ir.Value) -> list[ir.Node]:
    """The nodes on a way from what is differentiated by to the loss."""
    reached, needed, found = reach(step), {loss}, []
    for node in reversed(step.model.graph):
        if any(output in needed for output in node.outputs):
            reads = [value for value in (*node.inputs, *captured(node)) if value is not None]
            needed.update(reads)
            if any(value in reached for value in reads):
                found.append(node)
    return found


def _open(node: ir.Node) -> bool:
    spec = spec_of(node)
    return spec is not None and spec.vjp is None and (spec.expand is not None or _schema(node) is not None)


def _schema(node: ir.Node) -> Any:
    """The schema of an operator that the standard defines in terms of others; None for another one.

    ``Any``, since onnx does not type what belongs to such definitions.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset_of(node) or 0, "")
    except onnx.defs.SchemaError:
        return None
    return schema if schema.has_function or schema.has_context_dependent_function else None


def _replace(step: Step, node: ir.Node, facts: Refined) -> None:
    spec = spec_of(node)
    if spec is None or spec.expand is None:
        _call(step, node, facts)
        return
    made = spec.expand(
        node, Tape(node, Emitter(step.model, facts, step.model.graph, before=node), (), frozenset())
    )
    for old, term in zip(node.outputs, made, strict=False):
        if term is not None:
            _rename(step, old, term.value)
    edit.remove_node(node)


def _rename(step: Step, old: ir.Value, new: ir.Value) -> None:
    name = old.name
    edit.replace_uses(old, new)
    if name and new.name != name:
        old.name, new.name = None, name
    if name and step.values.get(name) is old:
        step.values[name] = new


def _call(step: Step, node: ir.Node, facts: Refined) -> None:
    """The standard's own definition becomes a function of the model, which the node calls."""
    schema, opset = _schema(node), opset_of(node) or 0
    assert schema is not None
    serialized = ir.to_proto(node).SerializeToString()
    if schema.has_context_dependent_function:
        body = schema.get_context_dependent_function_with_opset_version(
            opset, serialized, _types(node, facts)
        )
    else:
        body = schema.get_function_with_opset_version(opset)
    if not body:
        raise Undifferentiable("the standard has no definition of this form of it")
    proto = onnx.FunctionProto.FromString(body)
    proto.domain, proto.name = _BODIES, f"{node.op_type}_{len(step.model.functions)}"
    made = {output for inner in proto.node for output in inner.output}
    kept = [index for index, name in enumerate(proto.output) if name in made]  # absent ones are not computed
    proto.output[:] = [proto.output[index] for index in kept]
    function = ir.serde.deserialize_function(proto)
    step.model.functions[function.identifier()] = function
    step.model.opset_imports[_BODIES] = 1
    attributes: dict[str, Any] = {
        name: attribute for name, attribute in node.attributes.items() if name in function.attributes
    }
    call = ir.Node(
        _BODIES, proto.name, node.inputs, list(attributes.values()), num_outputs=len(node.outputs), name=""
    )
    graph = step.model.graph
    graph.insert_before(node, call)
    for index, new in zip(kept, call.outputs, strict=True):
        new.name = edit.unique_name(step.model, "expanded")
        if index < len(node.outputs) and node.outputs[index].name:
            _rename(step, node.outputs[index], new)
    edit.remove_node(node)


def _types(node: ir.Node, facts: Refined) -> Sequence[bytes]:
    found = []
    for value in node.inputs:
        dtype = None if value is None else facts.dtype(value)
        if value is None or dtype is None:
            found.append(onnx.TypeProto().SerializeToString())
            continue
        dims = facts.shape(value)
        shape = None if dims is None else list(dims)
        found.append(onnx.helper.make_tensor_type_proto(int(dtype), shape).SerializeToString())
    return found
