"""What happens to a model before and after a gradient is appended to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxslim._ir import inline_functions, ir
from onnxslim.errors import ModelError, OptionError
from onnxslim.model import edit
from onnxslim.model.tensors import shown
from onnxslim.ops.adjoint import flat
from onnxslim.ops.registry import spec_of
from onnxslim.passes.raise_opset import RaiseOpset

__all__ = ["OPSET", "Step", "captured", "finish", "prepared", "reach", "spread", "sweep"]

OPSET = 18  # the oldest in which all reductions read their axes from an input, as the rules write them


@dataclass
class Step:
    """A copy of a model that becomes a training step.

    Attributes:
        values: the main graph's values by name.
        lifted: weights that became inputs, with what was stored.
        wrt: what is differentiated by.
    """

    model: ir.Model
    values: dict[str, ir.Value]
    lifted: dict[str, ir.TensorProtocol]
    wrt: tuple[str, ...]


def prepared(model: ir.Model, loss: str, wrt: Sequence[str], keep: Sequence[str]) -> Step:
    """A copy with the weights as inputs, in the operator set of the rules, functions inlined."""
    step = edit.copy_of(model)
    if step.functions:
        inline_functions(step)
        edit.know_names(step)
    RaiseOpset(OPSET)(step)
    if step.opset_imports.get("", OPSET) < OPSET:
        what = f"the model cannot be brought to operator set {OPSET}, in which gradients are written"
        raise ModelError(what, hint="export it with a newer operator set")
    edit.know_names(step)
    values = _values(step.graph)
    for name in (loss, *wrt, *keep):
        if name not in values:
            raise OptionError(f"the model has no value {shown(name)}", hint="`onnxslim inspect` lists them")
    lifted = {}
    for name in dict.fromkeys(wrt):
        if (content := _stored(values[name])) is not None:
            lifted[name] = content
            values[name] = _lift(step.graph, values[name])
    return Step(step, values, lifted, tuple(dict.fromkeys(wrt)))


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    found = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    found.update((output.name, output) for node in graph for output in node.outputs)
    return {name: value for name, value in found.items() if name}


def _stored(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of an initializer or a Constant."""
    if value.is_initializer():
        return value.const_value
    content = edit.constant_value(value)
    return None if content is None else edit.tensor_from(content, value.name or "")


def _lift(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A stored value becomes an input of the same name."""
    name = value.name
    assert name is not None
    if value.is_graph_input():  # a default that callers may override
        del graph.initializers[name]
        return value
    tensor = _stored(value)
    assert tensor is not None
    lifted = ir.Value(name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype))
    producer = value.producer()
    for user, index in tuple(value.uses()):
        user.replace_input_with(index, lifted)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = lifted
    if producer is None:
        del graph.initializers[name]
    else:
        edit.remove_node(producer)
    graph.inputs.append(lifted)
    return lifted


def captured(node: ir.Node) -> Iterator[ir.Value]:
    """Values from outside that the graphs of a node read."""
    for graph in edit.subgraphs(node):
        own = {*graph.inputs, *graph.initializers.values()}
        own.update(output for inner in graph.all_nodes() for output in inner.outputs)
        for inner in graph.all_nodes():
            own.update(v for part in edit.subgraphs(inner) for v in part.inputs)
            own.update(v for part in edit.subgraphs(inner) for v in part.initializers.values())
        read = [value for inner in graph.all_nodes() for value in inner.inputs]
        yield from (value for value in (*read, *graph.outputs) if value is not None and value not in own)


def reach(step: Step) -> dict[ir.Value, frozenset[str]]:
    """For each value that depends on something differentiated by: the names that it depends on."""
    found = {step.values[name]: frozenset({name}) for name in step.wrt}
    spread(step.model.graph, found)
    return found


def spread(graph: ir.Graph, found: dict[ir.Value, frozenset[str]]) -> None:
    """The same for the values that a graph computes from those that are known."""
    for node in graph:
        spec = spec_of(node)
        if spec is not None and spec.vjp is flat:
            continue
        reads = [value for value in (*node.inputs, *captured(node)) if value is not None]
        names: frozenset[str] = frozenset().union(*(found.get(value, frozenset()) for value in reads))
        if names:
            for output in node.outputs:
                found[output] = found.get(output, frozenset()) | names


def finish(step: Step, outputs: Iterable[ir.Value], trained: Sequence[str]) -> None:
    """Give the graph its outputs, and take out all that they do not need."""
    graph = step.model.graph
    graph.outputs[:] = list(dict.fromkeys(outputs))
    for name in set(step.lifted) - set(trained):  # a frozen weight is stored again
        value = step.values[name]
        stored = edit.add_initializer(graph, step.lifted[name], f"{name}_frozen")
        for user, index in tuple(value.uses()):
            user.replace_input_with(index, stored)
        if value not in graph.outputs:
            graph.inputs.remove(value)
            stored.name = name
    sweep(graph)
    for value in [*graph.inputs, *graph.initializers.values()]:
        if not value.uses() and not value.is_graph_output() and value.name not in trained:
            if value.is_initializer() and value.name is not None:
                del graph.initializers[value.name]
            if value.is_graph_input():
                graph.inputs.remove(value)


def sweep(graph: ir.Graph) -> None:
    """Take out the nodes that nothing depends on."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            edit.remove_node(node)
