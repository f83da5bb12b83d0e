"""Write the parts of a Gelu in an order in which onnxruntime knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["ArrangeGelu"]


@dataclass(frozen=True)
class ArrangeGelu(Pass):
    """Replace ``x * (0.5 * (1 + erf(x / sqrt 2)))`` by ``(x * 0.5) * (1 + erf(x / sqrt 2))``.

    PyTorch's newer exporter writes the first form.  onnxruntime makes one Gelu kernel of the second and none
    of the first.  Halving is exact, so the product is the same number, down to where halving leaves the
    normal floats (hence CLOSE).

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) <float s = {1.4142135}, float one = {1}, float half = {0.5}> {
        ...         d = Div(x, s)  e = Erf(d)  a = Add(e, one)  m = Mul(half, a)  y = Mul(x, m) }'''))
        >>> ArrangeGelu()(model).modified, [node.op_type for node in model.graph]
        (True, ['Div', 'Erf', 'Add', 'Mul', 'Mul'])
    """

    name: ClassVar[str] = "arrange-gelu"
    promise: ClassVar[Promise] = Promise.CLOSE

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for scope in edit.scopes(model):
            for product in [node for node in scope if node.op_type == "Mul"]:
                modified |= _arrange(scope, product)
        return ir.passes.PassResult(model, modified)


def _arrange(scope: edit.Scope, product: ir.Node) -> bool:
    for outer in range(len(product.inputs)):
        halved, x = product.inputs[outer], product.inputs[1 - outer]
        half = _producer(halved, "Mul")
        if x is None or halved is None or half is None or len(halved.uses()) != 1 or halved.is_graph_output():
            continue
        for inner in range(len(half.inputs)):
            total, number = half.inputs[inner], half.inputs[1 - inner]
            if total is not None and _is_number(number, 0.5) and _is_one_plus_erf_of(total, x):
                half.replace_input_with(inner, x)
                product.replace_input_with(1 - outer, total)
                halved.name = edit.unique_name(scope, "h")  # another value now; short, to keep the file small
                return True
    return False


def _is_one_plus_erf_of(value: ir.Value, x: ir.Value) -> bool:
    add = _producer(value, "Add")
    for one, erf_value in (add.inputs, add.inputs[::-1]) if add is not None else ():
        erf = _producer(erf_value, "Erf")
        if erf is None or not _is_number(one, 1.0):
            continue
        scaled = _producer(erf.inputs[0], "Div")
        if scaled is not None and scaled.inputs[0] is x and edit.constant_value(scaled.inputs[1]) is not None:
            return True
    return False


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that computes ``value``, if it is of this type."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain in ("", "ai.onnx") else None


def _is_number(value: ir.Value | None, number: float) -> bool:
    content = edit.constant_value(value)
    return content is not None and content.size == 1 and bool(np.all(content == number))
