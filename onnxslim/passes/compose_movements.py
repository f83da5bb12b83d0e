"""Make one node of two that move or convert data one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes.base import Pass

__all__ = ["ComposeMovements"]


@dataclass(frozen=True)
class ComposeMovements(Pass):
    """Compose pairs of data movements and conversions, the first of which nobody else reads.

    1. ``Transpose(Transpose(x, p), q) = Transpose(x, p[q])``.
    2. ``Reshape(f(x), s) = Reshape(x, s)`` for f in Reshape, Flatten, Squeeze, Unsqueeze, and a constant s
       without zeros (those copy dimensions of what is reshaped).
    3. ``Squeeze(Unsqueeze(x, a), a) = x``.
    4. ``Cast(Cast(x, t), u) = Cast(x, u)`` where t holds every value of x's type.
    5. ``Concat(a, Concat(b, c), d) = Concat(a, b, c, d)`` along the same axis.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2,3,4] x) => (float[4,2,3] y) {
        ...         a = Transpose<perm=[2,1,0]>(x)  y = Transpose<perm=[0,2,1]>(a) }'''))
        >>> ComposeMovements()(model).modified, model.graph[0].attributes["perm"].as_ints()
        (True, (2, 0, 1))
    """

    name: ClassVar[str] = "compose-movements"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for scope in edit.scopes(model):
            for node in scope:  # producers come first, so that a chain collapses on the way
                compose = _COMPOSE.get(node.op_type) if node.domain == "" else None
                while compose is not None and node.graph is not None and compose(node):
                    modified = True
        return ir.passes.PassResult(model, modified)


def _only_read_by(node: ir.Node, value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The producer of ``value`` if it is one of ``op_types`` and serves nobody but ``node``, in one graph."""
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.domain != "" or producer.op_type not in op_types:
        return None
    if value.is_graph_output() or len(value.uses()) != 1 or producer.graph is not node.graph:
        return None
    return producer


def _bypass(node: ir.Node, index: int, producer: ir.Node) -> bool:
    """Let ``node`` read what ``producer`` reads, and remove the latter."""
    node.replace_input_with(index, producer.inputs[0])
    edit.remove_node(producer)
    return True


def _transpose(node: ir.Node) -> bool:
    first = _only_read_by(node, node.inputs[0], "Transpose")
    inner, outer = None if first is None else _perm(first), _perm(node)
    if first is None or inner is None or outer is None or len(inner) != len(outer):
        return False
    node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in outer])
    return _bypass(node, 0, first)


def _perm(node: ir.Node) -> Sequence[int] | None:
    attribute = node.attributes.get("perm")
    return None if attribute is None or attribute.is_ref() else attribute.as_ints()


def _reshape(node: ir.Node) -> bool:
    first = _only_read_by(node, node.inputs[0], "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    target = edit.constant_value(node.inputs[1]) if len(node.inputs) == 2 else None
    if first is None or target is None or not np.all(target):
        return False
    return _bypass(node, 0, first)


def _squeeze(node: ir.Node) -> bool:
    first = _only_read_by(node, node.inputs[0], "Unsqueeze")
    axes = _axes(node)
    if first is None or axes is None or axes != _axes(first) or min(axes, default=0) < 0:
        return False
    source, output = first.inputs[0], node.outputs[0]
    if source is None or not edit.can_replace(output, source):
        return False
    edit.replace_uses(output, source)
    edit.remove_node(node)
    edit.remove_node(first)
    return True


def _axes(node: ir.Node) -> list[int] | None:
    """The axes of a Squeeze or Unsqueeze, sorted; None where they are not known."""
    if "axes" in node.attributes:  # opset < 13
        attribute = node.attributes["axes"]
        return None if attribute.is_ref() else sorted(attribute.as_ints())
    axes = edit.constant_value(node.inputs[1]) if len(node.inputs) == 2 else None
    return None if axes is None else sorted(axes.reshape(-1).tolist())


def _cast(node: ir.Node) -> bool:
    first = _only_read_by(node, node.inputs[0], "Cast")
    source = None if first is None else first.inputs[0]
    if first is None or source is None or source.dtype is None:
        return False
    to = first.attributes["to"]
    if to.is_ref() or to.as_int() not in _HOLDS.get(source.dtype, ()):
        return False
    return _bypass(node, 0, first)


def _concat(node: ir.Node) -> bool:
    axis = node.attributes.get("axis")
    if axis is None or axis.is_ref() or axis.as_int() < 0:
        return False
    for index, value in enumerate(node.inputs):
        first = _only_read_by(node, value, "Concat")
        if first is not None and first.attributes["axis"] == axis:
            inputs = [*node.inputs[:index], *first.inputs, *node.inputs[index + 1 :]]
            node.resize_inputs(len(inputs))
            for position, moved in enumerate(inputs):
                node.replace_input_with(position, moved)
            edit.remove_node(first)
            return True
    return False


_COMPOSE: dict[str, Callable[[ir.Node], bool]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Concat": _concat,
}

_D = ir.DataType
# The types that hold every value of another; 8-bit floats are left out, since casts to them may saturate.
_HOLDS: dict[ir.DataType, frozenset[int]] = {
    _D.BOOL: frozenset({_D.UINT8, _D.INT8, _D.INT16, _D.INT32, _D.INT64, _D.FLOAT16, _D.FLOAT, _D.DOUBLE}),
    _D.UINT8: frozenset({_D.INT16, _D.UINT16, _D.INT32, _D.UINT32, _D.INT64, _D.UINT64, _D.FLOAT, _D.DOUBLE}),
    _D.INT8: frozenset({_D.INT16, _D.INT32, _D.INT64, _D.FLOAT, _D.DOUBLE}),
    _D.INT32: frozenset({_D.INT64, _D.DOUBLE}),
    _D.UINT32: frozenset({_D.INT64, _D.UINT64, _D.DOUBLE}),
    _D.FLOAT16: frozenset({_D.FLOAT, _D.DOUBLE}),
    _D.BFLOAT16: frozenset({_D.FLOAT, _D.DOUBLE}),
    _D.FLOAT: frozenset({_D.DOUBLE}),
}
