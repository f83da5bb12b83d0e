"""Set single weights to zero: the least important ones, anywhere or some of each few neighbours."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import Product, products_of
from onnxslim.analysis.selection import Selection
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["ZeroWeights"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ZeroWeights(Pass):
    """Zero a share of the weights of every product.

    1. ``pattern="0.5"``: the half of each weight that matters least.
    2. ``pattern="2:4"``: two of each four neighbours along what a product sums up; what is left over at the
       end stays.

    Declined: weights without neighbours for a pattern, and those excluded.

    Example:
        >>> x = ir.Value(name="x", shape=ir.Shape([1, 4]), type=ir.TensorType(ir.DataType.FLOAT))
        >>> graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.array([[1.0], [-4.0], [3.0], [2.0]], np.float32), "w")
        >>> graph.append(ir.node("MatMul", [x, w]))
        >>> ZeroWeights(pattern="2:4")(ir.Model(graph, ir_version=8)).modified
        True
        >>> edit.constant_value(w).ravel().tolist()
        [0.0, -4.0, 3.0, 0.0]
    """

    name: ClassVar[str] = "zero-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    pattern: str = field(default="0.5", metadata={"help": "share to zero (0.5), or N:M to keep N of each M"})
    by: Literal["magnitude", "random"] = field(default="magnitude", metadata={"help": "what matters least"})
    norms: Mapping[str, Array] = field(
        default_factory=dict,
        metadata={"help": "weight -> norms of the inputs of its rows, by which magnitudes are weighted"},
    )
    exclude: str = field(default="", metadata={"help": "leave these weights alone: comma-separated globs"})
    seed: int = field(default=0, metadata={"help": "of the random choice"})

    def __post_init__(self) -> None:
        self._parsed()

    def _parsed(self) -> float | tuple[int, int]:
        if found := re.fullmatch(r"(\d{1,4}):(\d{1,4})", self.pattern):
            kept, of = int(found[1]), int(found[2])
            if 0 < kept < of:
                return kept, of
        elif re.fullmatch(r"0?\.\d+", self.pattern) and float(self.pattern) > 0:
            return float(self.pattern)
        raise OptionError(f"{self.pattern!r} is no pattern of zeros", hint="write it like 0.5 or 2:4")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        excluded, modified = Selection.parse(self.exclude), False
        for product in products_of(model):
            name = product.weight.name or ""
            if excluded.has_name(name) or excluded.has_operator(product.node.op_type):
                self.decline(name, "excluded by the user")
                continue
            modified |= self._zero(product)
        return ir.passes.PassResult(model, modified)

    def _zero(self, product: Product) -> bool:
        tensor = product.weight.const_value
        assert tensor is not None
        weight = tensor.numpy()
        matrix = product.linear.matrix(weight)
        parsed, worth = self._parsed(), self._worth(product, matrix)
        if isinstance(parsed, tuple):
            kept, of = parsed
            groups, length, outputs = matrix.shape
            whole = length // of
            if not whole:
                self.decline(product.weight.name or "", f"it sums up {length} products, fewer than {of}")
                return False
            blocks = worth[:, : whole * of].reshape(groups, whole, of, outputs)
            ranks = np.argsort(np.argsort(blocks, axis=2, kind="stable"), axis=2, kind="stable")
            gone = np.zeros(matrix.shape, np.bool_)
            gone[:, : whole * of] = (ranks < of - kept).reshape(groups, whole * of, outputs)
        else:
            order = np.argsort(worth, axis=None, kind="stable")[: round(parsed * worth.size)]
            gone = np.zeros(worth.shape, np.bool_)
            gone.reshape(-1)[order] = True
        mask = product.linear.weight_of(gone, weight.shape)
        if not weight[mask].any():
            return False
        edit.replace_initializer(product.weight, np.where(mask, np.zeros((), weight.dtype), weight))
        return True

    def _worth(self, product: Product, matrix: Array) -> Array:
        name = product.weight.name or ""
        if self.by == "random":
            return np.random.default_rng([self.seed, zlib.crc32(name.encode())]).random(matrix.shape)
        worth = np.abs(matrix.astype(np.float64))
        norms = self.norms.get(name)
        return worth if norms is None else worth * norms.reshape(*matrix.shape[:2], 1)
