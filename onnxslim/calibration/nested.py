"""Tensors inside the bodies of control flow, made visible outside: as further outputs of the node.

1. A branch (If): the value becomes an output of its branch; the other branch gives an empty tensor.
2. A body that repeats (Loop, Scan): the value becomes a scan output, stacked over the iterations, provided
   that its shape is the same in each of them.

What cannot be made visible is named with the reason.  Spec: https://onnx.ai/onnx/operators/onnx__Loop.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model.edit import scopes, subgraphs, unique_name, value_names
from onnxslim.ops.control import control_flow

__all__ = ["FLOATS", "Promoted", "promote"]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})

_SCAN_LISTS = ("scan_output_axes", "scan_output_directions")


@dataclass(frozen=True)
class Promoted:
    """A value inside a body and what carries it outside.

    Attributes:
        inner: the value itself.
        outer: the output of a node in the main graph.
        leading: axes in front of the value's own, one per repeating body.
        optional: an empty ``outer`` means that the value was not computed.
    """

    inner: ir.Value
    outer: ir.Value
    leading: int = 0
    optional: bool = False


def promote(
    model: ir.Model, wanted: Collection[str] | None = None
) -> tuple[dict[ir.Value, Promoted], dict[str, str]]:
    """Make the float tensors inside bodies outputs of the nodes in the main graph.

    Args:
        model: is changed.
        wanted: names of tensors; None for all.

    Returns:
        What was made visible, by output of the main graph, and the names of the others with the reason.
    """
    holders = [node for node in model.graph if any(True for _ in subgraphs(node))]
    if not holders:
        return {}, {}
    work = _Promotion(model, wanted)
    found = [promoted for node in holders for promoted in work.lifted(node)]
    return {promoted.outer: promoted for promoted in found}, work.refused


class _Promotion:
    def __init__(self, model: ir.Model, wanted: Collection[str] | None) -> None:
        self._opset = model.opset_imports.get("", 1)
        for scope in scopes(model):
            for node in scope:
                if control_flow(node, self._opset) == "loop":
                    _doubt_carried_shapes(node)
        self._shapes: Shapes = infer(model)
        self._wanted = wanted
        self._names = Counter(_all_names(model.graph))
        fixed = (self._shapes.shape(value) or () for value in model.graph.inputs)
        self._symbols = {dim for shape in fixed for dim in shape if isinstance(dim, str)}
        self.refused: dict[str, str] = {}

    def lifted(self, node: ir.Node) -> Iterator[Promoted]:
        """The values inside ``node``, each now one of its outputs."""
        bodies = list(subgraphs(node))
        where = f"it is inside the body of '{node.name or node.op_type}'"
        inside = [(body, promoted) for body in bodies for promoted in self._inside(body, where)]
        kind = control_flow(node, self._opset)
        for body, promoted in inside:
            if kind == "branches":
                yield self._from_branch(node, bodies, body, promoted)
            elif kind is not None:
                reason = self._unsteady(promoted)
                if reason:
                    self.refused[str(promoted.inner.name)] = f"{where}, {reason}"
                else:
                    yield self._from_iterations(node, body, promoted)
            else:
                self.refused[str(promoted.inner.name)] = f"{where}, which cannot hand it out"

    def _inside(self, body: ir.Graph, where: str) -> list[Promoted]:
        found: list[Promoted] = []
        for node in tuple(iter(body)):
            own = tuple(node.outputs)
            if any(True for _ in subgraphs(node)):
                found += self.lifted(node)
            elif not node.inputs:
                continue  # a constant
            for value in own:
                if not value.name or (self._wanted is not None and value.name not in self._wanted):
                    continue
                dtype = self._shapes.dtype(value)
                if dtype is None:
                    self.refused[value.name] = f"{where}, and its type is not known"
                elif dtype in FLOATS and self._names[value.name] > 1:
                    self.refused[value.name] = f"{where}, and another tensor has the same name"
                elif dtype in FLOATS:
                    found.append(Promoted(value, value))
        return found

    def _unsteady(self, promoted: Promoted) -> str:
        """Why the iterations of a body cannot be stacked; empty if they can."""
        if promoted.optional:
            return "in a branch that not every iteration takes"
        if promoted.leading:
            return "in a loop of its own whose length may differ between iterations"
        shape = self._shapes.shape(promoted.inner)
        if shape is None or any(not isinstance(dim, int) and dim not in self._symbols for dim in shape):
            return "and its shape may differ between iterations"
        return ""

    def _from_branch(
        self, node: ir.Node, bodies: list[ir.Graph], body: ir.Graph, promoted: Promoted
    ) -> Promoted:
        dtype = self._shapes.dtype(promoted.inner)
        assert dtype is not None
        for other in bodies:
            if other is body:
                _hand_out(body, promoted.outer)
            else:
                empty = ir.tensor(np.zeros(0, dtype.numpy()))
                constant = ir.node("Constant", [], {"value": empty})
                constant.outputs[0].name = unique_name(other, "not_taken")
                constant.outputs[0].type = ir.TensorType(dtype)
                other.append(constant)
                other.outputs.append(constant.outputs[0])
        return replace(promoted, outer=_further_output(node, promoted, dtype), optional=True)

    def _from_iterations(self, node: ir.Node, body: ir.Graph, promoted: Promoted) -> Promoted:
        dtype = self._shapes.dtype(promoted.inner)
        assert dtype is not None
        _hand_out(body, promoted.outer)
        for name in _SCAN_LISTS:
            if name in node.attributes:
                values = [*node.attributes[name].as_ints(), 0]
                node.attributes[name] = ir.AttrInt64s(name, values)
        outer = _further_output(node, promoted, dtype)
        return replace(promoted, outer=outer, leading=promoted.leading + 1)


def _doubt_carried_shapes(node: ir.Node) -> None:
    """What a Loop carries from one iteration to the next may change its shape, whatever the file says."""
    for body in subgraphs(node):
        for value in body.inputs[2:]:
            value.shape = None


def _hand_out(body: ir.Graph, value: ir.Value) -> None:
    """Add ``value`` to the outputs of its body, under another name since it may be one of them already."""
    copy = ir.node("Identity", [value])
    copy.outputs[0].name = unique_name(body, f"{value.name}_seen")
    copy.outputs[0].type = value.type
    body.append(copy)
    body.outputs.append(copy.outputs[0])


def _further_output(node: ir.Node, promoted: Promoted, dtype: ir.DataType) -> ir.Value:
    node.resize_outputs(len(node.outputs) + 1)
    output = node.outputs[-1]
    assert node.graph is not None
    output.name = unique_name(node.graph, f"{promoted.inner.name}_outside")
    output.type = ir.TensorType(dtype)
    return output


def _all_names(graph: ir.Graph) -> Iterator[str]:
    yield from value_names(graph)
    for node in graph:
        for body in subgraphs(node):
            yield from _all_names(body)
