"""Give Reshape a constant shape where it only repeats dimensions that it could copy or infer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.facts import Known, known_facts
from onnxslim.analysis.partial import Dim, PartialValues
from onnxslim.model import edit
from onnxslim.passes.base import Pass

__all__ = ["SimplifyReshapes"]

_COPY, _INFER = 0, -1


@dataclass(frozen=True)
class SimplifyReshapes(Pass):
    """Replace a computed shape by a constant with 0 or -1 for its unknown elements.

    Exporters write ``Reshape(x, Concat(Gather(Shape(x), 0), 12, 64))`` for ``Reshape(x, [0, 12, 64])``.

    1. An unknown element that is dimension i of the reshaped data, at position i, is copied: 0.
    2. Where exactly one element is unknown and nothing is copied, it is inferred: -1.  (Both together would
       leave the result open when a copied dimension is empty.)

    A computed shape that others read too stays; the nodes that computed it are left to ``remove-dead-code``.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[n, 6] x) => (float[n, 2, 3] y) {
        ...         s = Shape<end=1>(x)  d = Constant<value_ints=[2, 3]>()
        ...         t = Concat<axis=0>(s, d)  y = Reshape(x, t) }'''))
        >>> SimplifyReshapes()(model).modified, edit.constant_value(model.graph[-1].inputs[1]).tolist()
        (True, [0, 2, 3])
    """

    name: ClassVar[str] = "simplify-reshapes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not any(True for scope in edit.scopes(model) for _ in _candidates(scope)):
            return ir.passes.PassResult(model, False)  # shapes need not be inferred
        facts = known_facts(model)
        values = PartialValues(facts.shape)
        modified = False
        for scope in edit.scopes(model):  # outer scopes come first, and nodes in topological order
            candidates = set(_candidates(scope))
            found: dict[ir.Value, list[tuple[ir.Node, list[int]]]] = {}
            for node in scope:
                values.known(node)
                computed = node.inputs[1] if node in candidates else None
                if computed is not None:
                    shape = _constant_shape(node, values.elements(computed), facts)
                    if shape is not None:
                        found.setdefault(computed, []).append((node, shape))
            for computed, rewrites in found.items():
                if len(rewrites) < len(computed.uses()) or computed.is_graph_output():
                    continue  # it would be computed all the same
                for node, shape in rewrites:
                    constant = edit.add_constant(scope, np.array(shape, np.int64), "shape", before=node)
                    node.replace_input_with(1, constant)
                modified = True
        return ir.passes.PassResult(model, modified)


def _candidates(scope: edit.Scope) -> Iterator[ir.Node]:
    """Reshapes whose shape is computed, and in which 0 means to copy."""
    for node in scope:
        if node.domain == "" and node.op_type == "Reshape" and len(node.inputs) == 2:
            allow_zero = node.attributes.get("allowzero")
            if allow_zero is not None and (allow_zero.is_ref() or allow_zero.as_int()):
                continue
            shape = node.inputs[1]
            if shape is not None and shape.producer() is not None and edit.constant_value(shape) is None:
                yield node


def _constant_shape(
    node: ir.Node, elements: Sequence[int | Dim | None] | None, facts: Known
) -> list[int] | None:
    data = node.inputs[0]
    if data is None or elements is None or all(isinstance(element, int) for element in elements):
        return None  # what is known whole is folded where that pays
    shape = [
        element if isinstance(element, int) else _COPY if _is_dimension(element, data, i, facts) else _INFER
        for i, element in enumerate(elements)
    ]
    inferred = [e for e, size in zip(elements, shape, strict=True) if size == _INFER]
    if _INFER not in shape:
        return shape
    only_one = len(inferred) == 1 and not isinstance(inferred[0], int)
    return shape if only_one and _COPY not in shape else None


def _is_dimension(element: Dim | None, data: ir.Value, axis: int, facts: Known) -> bool:
    """Whether an unknown element is dimension ``axis`` of ``data``: the very one, or of the same name."""
    if element is None:
        return False
    if element.value is data and element.axis == axis:
        return True
    here, there = facts.shape(data), facts.shape(element.value)
    if here is None or there is None or axis >= len(here):
        return False
    return isinstance(here[axis], str) and here[axis] == there[element.axis]
