"""Store weights with many zeros as what is not zero, and a bit for each element."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes._decoding import CODED_BYTES, MIN_OPSET, Decoder
from onnxslim.passes._weights import constants, float_weight, is_excluded, is_table, remove
from onnxslim.passes.base import Pass, Promise

__all__ = ["PackZeros"]


@dataclass(frozen=True)
class PackZeros(Pass):
    """Store float32 weights with many zeros compactly, where that makes the file smaller.

    The values that are not zero stand in a row, behind one zero; the sums of the bits so far say which of them
    an element is.  onnxruntime computes that while it loads the model, at every optimization level but "none",
    so kernels and speed stay what they were.  Half zeros take 0.53 of the bytes, nine tenths 0.13.

    Large tables that only ``Gather`` reads stay as they are: decoding all of them would cost memory.  -0.0
    counts as a value.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.eye(64, dtype="f"), "w")
        >>> graph.append(ir.node("Relu", [w]))
        >>> PackZeros()(ir.Model(graph, ir_version=8)).modified, graph.initializers["w_v"].shape
        (True, Shape([65]))
    """

    name: ClassVar[str] = "pack-zeros"
    promise: ClassVar[Promise] = Promise.EXACT

    exclude: str = field(
        default="",
        metadata={"help": "leave these weights alone: comma-separated globs of names, or op:Conv by readers"},
    )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        if opset < MIN_OPSET:
            self.decline(model.graph.name or "graph", f"opset {opset} is older than {MIN_OPSET}")
            return ir.passes.PassResult(model, False)
        modified = False
        for scope in edit.scopes(model):
            decoder = Decoder(scope)
            for value in list(constants(scope)):
                modified |= self._pack(scope, value, decoder)
        return ir.passes.PassResult(model, modified)

    def _pack(self, scope: edit.Scope, value: ir.Value, decoder: Decoder) -> bool:
        weight, name = float_weight(value), value.name or ""
        if weight is None or is_table(value, weight.shape):
            return False
        values = int(np.count_nonzero(weight.view(np.uint32)))
        if weight.size / 8 + 4 * (values + 1) + CODED_BYTES + 4 * len(name) >= weight.nbytes:
            return False
        if is_excluded(value, self.exclude):
            self.decline(name, "excluded by the user")
            return False
        edit.replace_uses(value, decoder.scattered(weight, name))
        remove(scope, value)
        return True
