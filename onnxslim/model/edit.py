"""The only place that swaps initializers, rewires edges and invents names.

onnx_ir leaves traps for whoever does it by hand: assigning ``const_value`` leaves the value's shape and type
stale, ``replace_all_uses_with`` refuses graph outputs, automatic names (``val_3``) may clash with an outer
scope.  These functions keep a model valid; a test bans the assignment elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.model.scopes import Scope, graphs, nested, scopes, subgraphs, value_names

__all__ = [
    "Scope",
    "add_constant",
    "add_initializer",
    "can_replace",
    "constant_value",
    "copy_of",
    "graphs",
    "know_names",
    "new_node",
    "remove_node",
    "remove_unread",
    "replace_constant",
    "replace_initializer",
    "replace_uses",
    "scopes",
    "store_constant",
    "subgraphs",
    "tensor_from",
    "unique_name",
    "value_names",
]

Array = npt.NDArray[Any]

_NAMES = "onnxslim.names"  # key in a graph's ``meta``, for what all graphs of a model know about names


def unique_name(owner: ir.Model | Scope, hint: str) -> str:
    """A value name that nothing in the model has used so far: ``hint`` itself, or ``hint_1``, ``hint_2``, ...

    Names are unique over all scopes, since ONNX forbids shadowing.  Loaded models know their names; for a
    lone graph that was built by hand only its own and nested names are known.

    Example:
        >>> graph = ir.Graph([ir.Value(name="x")], [], nodes=[])
        >>> unique_name(graph, "x"), unique_name(graph, "x"), unique_name(graph, "y")
        ('x_1', 'x_2', 'y')
    """
    names = (owner.graph if isinstance(owner, ir.Model) else owner).meta.get(_NAMES) or know_names(owner)
    return names.invent(hint)


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str | None = "",
    num_outputs: int = 1,
) -> ir.Node:
    """A node without a name, unless one is given: the graph would invent one, and the file would keep it.

    Example:
        >>> graph = ir.Graph([], [], nodes=[new_node("Relu", [ir.Value(name="x")])])
        >>> graph[0].op_type, graph[0].name
        ('Relu', '')
    """
    return ir.node(op_type, inputs, attributes, name=name or "", num_outputs=num_outputs)


def copy_of(model: ir.Model) -> ir.Model:
    """A copy that shares weights alone: names that are invented in one are free in the other.

    Example:
        >>> model = ir.Model(ir.Graph([ir.Value(name="x")], [], nodes=[]), ir_version=8)
        >>> _ = know_names(model)
        >>> unique_name(copy_of(model), "y"), unique_name(copy_of(model), "y"), unique_name(model, "y")
        ('y', 'y', 'y')
    """
    copy = model.clone()
    know_names(copy)
    return copy


def know_names(owner: ir.Model | Scope) -> _Names:
    """Collect the names of a model anew; done whenever a model is loaded."""
    everywhere = list(scopes(owner)) if isinstance(owner, ir.Model) else list(nested(owner))
    names = _Names()
    for scope in everywhere:
        names.used.update(value_names(scope))
        for node in scope:  # a subgraph also sees what it uses from outside
            names.used.update(value.name for value in node.inputs if value is not None and value.name)
        scope.meta[_NAMES] = names
    return names


@dataclass
class _Names:
    """All names ever used in a model, and how far each hint has been counted."""

    used: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def invent(self, hint: str) -> str:
        name, count = hint, self.counts.get(hint, 0)
        while not name or name in self.used:
            count += 1
            name = f"{hint}_{count}"
        self.counts[hint] = count
        self.used.add(name)
        return name


def tensor_from(array: Array, name: str) -> ir.TensorProtocol:
    """An ONNX tensor of the array's dtype (``ml_dtypes`` included) and shape; object arrays hold strings."""
    if array.dtype.kind in "OSU":
        strings = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
        return ir.StringTensor(strings, shape=ir.Shape(array.shape), name=name)
    return ir.Tensor(np.asarray(array, order="C"), name=name)


def replace_initializer(value: ir.Value, content: Array | ir.TensorProtocol) -> None:
    """Give an initializer a new content, with shape and type brought in line.

    Raises:
        ValueError: if ``value`` is no initializer, or is also a graph input, whose interface would change.
    """
    if not value.is_initializer() or value.name is None:
        raise ValueError(f"{value.name!r} is not an initializer")
    if value.is_graph_input():
        raise ValueError(f"{value.name!r} is a graph input with a default and cannot be replaced")
    _set_constant(value, tensor_from(content, value.name) if isinstance(content, np.ndarray) else content)


def replace_constant(value: ir.Value, content: Array) -> None:
    """Give a stored value, an initializer or the output of a Constant node, a new content.

    Raises:
        ValueError: if ``value`` is not stored, or is also a graph input.

    Example:
        >>> node = ir.node("Constant", [], {"value_ints": [1, 2]})
        >>> replace_constant(node.outputs[0], np.array([3]))
        >>> constant_value(node.outputs[0]).tolist()
        [3]
    """
    node = value.producer()
    if node is None:
        replace_initializer(value, content)
        return
    if constant_value(value) is None:
        raise ValueError(f"{value.name!r} is not a constant")
    tensor = tensor_from(content, value.name or "")
    node.attributes.clear()
    node.attributes.add(ir.AttrTensor("value", tensor))
    _set_constant(value, tensor)


def add_initializer(graph: ir.Graph, content: Array | ir.TensorProtocol, name_hint: str) -> ir.Value:
    """Add a new initializer to ``graph`` and return its value.

    Example:
        >>> graph = ir.Graph([], [], nodes=[])
        >>> added = add_initializer(graph, np.zeros((2, 3), np.float32), "weight")
        >>> added.name, str(added.shape), "weight" in graph.initializers
        ('weight', '[2,3]', True)
    """
    name = unique_name(graph, name_hint)
    value = ir.Value(name=name)
    _set_constant(value, tensor_from(content, name) if isinstance(content, np.ndarray) else content)
    graph.register_initializer(value)
    return value


def add_constant(
    scope: Scope, content: Array | ir.TensorProtocol, name_hint: str, *, before: ir.Node
) -> ir.Value:
    """A new constant that ``before`` may read: an initializer or, in a function, a Constant node."""
    if isinstance(scope, ir.Graph):
        return add_initializer(scope, content, name_hint)
    name = unique_name(scope, name_hint)
    tensor = tensor_from(content, name) if isinstance(content, np.ndarray) else content
    node = ir.node("Constant", [], {"value": tensor}, name=name)
    _set_constant(node.outputs[0], tensor)
    node.outputs[0].name = name
    scope.insert_before(before, node)
    return node.outputs[0]


def store_constant(scope: Scope, value: ir.Value, content: Array | ir.TensorProtocol) -> None:
    """Let the output ``value`` of a node become a constant of its own name, read wherever the output was.

    The node itself stays, nameless and unread: remove it afterwards.
    """
    name, producer = value.name, value.producer()
    if not name or producer is None:
        raise ValueError(f"{name!r} is not a node's output")
    tensor = tensor_from(content, name) if isinstance(content, np.ndarray) else content
    if isinstance(scope, ir.Graph):
        constant = ir.Value(name=name)
    else:
        node = ir.node("Constant", [], {"value": tensor}, name=name)
        constant = node.outputs[0]
        constant.name = name
        scope.insert_before(producer, node)
    _set_constant(constant, tensor)
    constant.doc_string = value.doc_string
    constant.metadata_props.update(value.metadata_props)
    value.name = None
    for user, index in tuple(value.uses()):
        user.replace_input_with(index, constant)
    if value.is_graph_output():
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        constant.shape, constant.type = value.shape or constant.shape, value.type or constant.type
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = constant
    if isinstance(scope, ir.Graph):
        scope.register_initializer(constant)


def _set_constant(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    value.const_value = tensor
    value.shape = ir.Shape(tensor.shape.numpy())
    value.type = ir.TensorType(tensor.dtype)


def replace_uses(old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads ``old`` read ``new``; graph outputs keep their names, shapes and types.

    Where ``old`` is a graph output, ``new`` takes its name (and gives its own to ``old``).  Where ``new``
    cannot be renamed (it is an input, an initializer, an output already or of another scope), an Identity
    node bears the output's name instead.  ``old`` and its producer stay: remove them afterwards.
    """
    for user, index in tuple(old.uses()):
        user.replace_input_with(index, new)
    graph = old.graph
    if not old.is_graph_output() or graph is None:
        return
    if can_replace(old, new):
        output = new
        old.name, output.name = new.name, old.name
    else:
        output = _identity_after(new, old, graph)
    output.shape = old.shape if old.shape is not None else output.shape
    output.type = old.type or output.type
    output.doc_string = old.doc_string or output.doc_string
    output.metadata_props.update(old.metadata_props)
    for index, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[index] = output


def can_replace(old: ir.Value, new: ir.Value) -> bool:
    """Whether ``replace_uses(old, new)`` does without an additional Identity node."""
    if not old.is_graph_output():
        return True
    return new.producer() is not None and new.graph is old.graph and not new.is_graph_output()


def _identity_after(source: ir.Value, old: ir.Value, graph: ir.Graph) -> ir.Value:
    name = old.name
    old.name = unique_name(graph, f"{name}_replaced")
    node = ir.node("Identity", [source], name=f"{name}_identity")
    node.outputs[0].name = name
    node.outputs[0].type, node.outputs[0].shape = source.type, source.shape
    graph.append(node)
    return node.outputs[0]


def remove_node(node: ir.Node) -> None:
    """Take a node whose outputs nobody uses out of its graph.

    Raises:
        ValueError: if an output is still used, or is a graph output.
    """
    if node.graph is None:
        raise ValueError(f"node {node.name!r} belongs to no graph")
    node.graph.remove(node, safe=True)
    for graph in subgraphs(node):  # what they read from outside is not read any more
        for inner in graph.all_nodes():
            inner.resize_inputs(0)


def remove_unread(value: ir.Value) -> None:
    """Take a constant that nobody reads any more out of its graph."""
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    node = value.producer()
    if node is not None:
        remove_node(node)
    elif value.graph is not None and value.name is not None:
        del value.graph.initializers[value.name]


def constant_value(value: ir.Value | None) -> Array | None:
    """The content of a value that is the same in every run, else None.

    That is an initializer which is not a graph input as well (callers may override those), or the output of
    a Constant node in any of its attribute forms.  Strings come as object arrays of ``bytes``.  External data
    is memory-mapped; treat the array as read-only.

    Spec: https://onnx.ai/onnx/operators/onnx__Constant.html
    """
    if value is None:
        return None
    if value.is_initializer():
        overridable = value.is_graph_input()
        return None if overridable or value.const_value is None else _numpy(value.const_value)
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    if len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref() or attribute.type != _CONSTANT_FORMS.get(attribute.name):
        return None
    content: Any = attribute.value
    match attribute.type:
        case ir.AttributeType.TENSOR:
            return _numpy(content)
        case ir.AttributeType.FLOAT | ir.AttributeType.FLOATS:
            return np.array(content, np.float32)
        case ir.AttributeType.INT | ir.AttributeType.INTS:
            return np.array(content, np.int64)
    strings = [content] if attribute.type == ir.AttributeType.STRING else content
    array = np.array([_bytes(string) for string in strings], object)
    return array.reshape(()) if attribute.type == ir.AttributeType.STRING else array


_CONSTANT_FORMS = {  # sparse_value is not among them: nobody needs it dense but the runtime
    "value": ir.AttributeType.TENSOR,
    "value_float": ir.AttributeType.FLOAT,
    "value_floats": ir.AttributeType.FLOATS,
    "value_int": ir.AttributeType.INT,
    "value_ints": ir.AttributeType.INTS,
    "value_string": ir.AttributeType.STRING,
    "value_strings": ir.AttributeType.STRINGS,
}


def _bytes(string: str | bytes) -> bytes:
    return string if isinstance(string, bytes) else string.encode()


def _numpy(tensor: ir.TensorProtocol) -> Array:
    if tensor.dtype == ir.DataType.STRING:
        strings: list[bytes] = list(tensor.string_data())  # type: ignore[attr-defined]
        return np.array(strings, object).reshape(tensor.shape.numpy())
    return tensor.numpy()
