"""Let residual blocks do nothing: what they add is left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.analysis.blocks import find_blocks
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["SkipBlocks"]


@dataclass(frozen=True)
class SkipBlocks(Pass):
    """Replace ``x + f(x)`` by ``x``; what only ``f`` needed is left for ``remove-dead-code``.

    1. ``c = Add(x, f(x))``, c named: the uses of c read x.

    Declined: names that are no residual block whose shape is that of its shortcut.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) { a = Exp(x)  b = Neg(a)  c = Add(b, a)  y = Abs(c) }'''))
        >>> SkipBlocks(outputs=("c",))(model).modified
        True
        >>> [value.name for value in model.graph.node(3).inputs]
        ['a']
    """

    name: ClassVar[str] = "skip-blocks"
    promise: ClassVar[Promise] = Promise.LOSSY

    outputs: tuple[str, ...] = field(default=(), metadata={"help": "names of the sums that end the blocks"})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        blocks = {block.name: block for block in find_blocks(model)} if self.outputs else {}
        replaced: dict[ir.Value, ir.Value] = {}
        for name in self.outputs:
            block = blocks.get(name)
            if block is None:
                self.decline(name, "it is no residual block of a known shape")
                continue
            shortcut = block.shortcut
            while shortcut in replaced:  # the output of a block that was skipped already
                shortcut = replaced[shortcut]
            replaced[block.output] = shortcut
            edit.replace_uses(block.output, shortcut)
        return ir.passes.PassResult(model, bool(replaced))
