"""Residual blocks: sums of a value and of something computed from it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.ops.linear import is_sum

__all__ = ["Block", "find_blocks"]


@dataclass(frozen=True)
class Block:
    """``output = shortcut + branch``, where the branch is computed from the shortcut."""

    output: ir.Value
    shortcut: ir.Value

    @property
    def name(self) -> str:
        """The name of its output."""
        return self.output.name or ""


def find_blocks(model: ir.Model) -> list[Block]:
    """The residual blocks of the main graph whose output has the shape of their shortcut, in order.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) { a = Exp(x)  b = Neg(a)  c = Add(b, a)  y = Abs(c) }'''
        >>> [(b.name, b.shortcut.name) for b in find_blocks(ir.from_proto(onnx.parser.parse_model(text)))]
        [('c', 'a')]
    """
    shapes = infer(model)
    order = {value: n for n, node in enumerate(model.graph) for value in node.outputs}
    found = []
    for node in model.graph:
        if not is_sum(node):
            continue
        first, second = node.inputs
        assert first is not None and second is not None
        for shortcut, branch in ((first, second), (second, first)):
            if shortcut.is_initializer() or not _same(shapes, shortcut, node.outputs[0]):
                continue
            if order.get(shortcut, -1) < order.get(branch, -1) and _depends(branch, shortcut, order):
                found.append(Block(node.outputs[0], shortcut))
                break
    return found


def _same(shapes: Shapes, a: ir.Value, b: ir.Value) -> bool:
    """Whether two shapes are known to be equal."""
    one, other = shapes.shape(a), shapes.shape(b)
    return one is not None and None not in one and one == other


def _depends(value: ir.Value, on: ir.Value, order: dict[ir.Value, int]) -> bool:
    """Whether a value is computed from another; nothing before the other is looked at."""
    first, work, seen = order.get(on, -1), [value], set[ir.Node]()
    while work:
        current = work.pop()
        if current is on:
            return True
        node = current.producer()
        if node is None or node in seen or order.get(current, -1) < first:
            continue
        seen.add(node)
        work += [each for each in node.inputs if each is not None]
    return False
