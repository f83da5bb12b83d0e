"""The part of a model that computes some of its values from others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from onnxslim._ir import ir
from onnxslim.analysis.shapes import infer
from onnxslim.model.edit import know_names, remove_node, subgraphs, unique_name

__all__ = ["extract", "named_values"]


def named_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """The inputs and the outputs of nodes of a graph, not of its subgraphs, by name, in order."""
    produced = (value for node in graph for value in node.outputs)
    return {value.name: value for value in (*graph.inputs, *produced) if value.name}


def extract(
    model: ir.Model, outputs: Iterable[str], given: Mapping[str, Collection[str]] | None = None
) -> tuple[ir.Model, dict[str, str]]:
    """A copy that computes ``outputs``, values of the main graph by name, and nothing else.

    Args:
        given: values that are fed to their readers: name -> those readers, by the name of their first output,
            that go on reading what the model computes.

    Returns:
        The copy, and the name of the input for each given value that is read in it.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] z) { a = Exp(x)  b = Neg(a)  c = Abs(b)  z = Log(c) }'''
        >>> part, fed = extract(ir.from_proto(onnx.parser.parse_model(text)), ["c"], {"a": ()})
        >>> [value.name for value in part.graph.inputs], [node.op_type for node in part.graph], fed
        (['a_given'], ['Neg', 'Abs'], {'a': 'a_given'})
    """
    part = model.clone()
    graph, values = part.graph, named_values(part.graph)
    know_names(part)
    wanted = [values[name] for name in dict.fromkeys(outputs)]
    fed: dict[str, ir.Value] = {}
    types = infer(part) if given else None
    for name, keeping in (given or {}).items():
        source = values[name]
        dtype = (types.dtype(source) if types else None) or ir.DataType.FLOAT
        fed[name] = ir.Value(
            name=unique_name(part, f"{name}_given"), shape=source.shape, type=ir.TensorType(dtype)
        )
        for user, index in tuple(source.uses()):
            if not user.outputs or user.outputs[0].name not in keeping:
                user.replace_input_with(index, fed[name])
        graph.inputs.append(fed[name])
    graph.outputs.clear()
    graph.outputs.extend(wanted)
    needed = _needed(wanted)
    for node in reversed(list(graph)):
        if node not in needed:
            remove_node(node)
    read = {value for node in graph.all_nodes() for value in node.inputs}.union(wanted)
    read.update(value for node in graph for inner in subgraphs(node) for value in inner.outputs)
    kept = [value for value in graph.inputs if value in read]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    for name in [name for name, value in graph.initializers.items() if value not in read]:
        del graph.initializers[name]
    return part, {name: value.name or "" for name, value in fed.items() if value in read}


def _needed(wanted: Sequence[ir.Value]) -> set[ir.Node]:
    needed: set[ir.Node] = set()
    work = [value.producer() for value in wanted]
    while work:
        node = work.pop()
        if node is None or node in needed:
            continue
        needed.add(node)
        work += [value.producer() for value in node.inputs if value is not None]
        for graph in subgraphs(node):
            work += [
                value.producer() for inner in graph.all_nodes() for value in inner.inputs if value is not None
            ]
            work += [value.producer() for value in graph.outputs]
    return needed
