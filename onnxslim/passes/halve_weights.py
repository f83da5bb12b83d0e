"""Store float weights in half precision, behind a Cast that the runtime computes while it loads the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.selection import Selection
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.ops.registry import is_dequantize, is_quantize
from onnxslim.passes._decoding import is_decoding
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.rounding import sqnr_db

__all__ = ["HalveWeights", "Halved"]

_MIN_OPSET = 6  # Cast takes its type as a number since then
_NODE_BYTES = 80  # what the node costs in the file, names aside


@dataclass(frozen=True)
class Halved:
    """A weight in half precision."""

    half: npt.NDArray[np.float16]

    def decode(self) -> npt.NDArray[np.float32]:
        """The weight in float32."""
        return self.half.astype(np.float32)

    @property
    def nbytes(self) -> int:
        return self.half.nbytes


@dataclass(frozen=True)
class HalveWeights(Pass):
    """Store float32 weights as float16; the kernels see float32 as before, and the speed stays what it was.

    For weights that 8 bits are too few for (``pack-weights`` leaves those alone).  All readers of a weight
    share its Cast, so tied weights stay tied.  Declined: weights that half precision cannot hold (beyond
    65504, or so small that less than ``min_sqnr_db`` would be left).

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.random.rand(64, 64).astype("f"), "w")
        >>> graph.append(ir.node("Relu", [w]))
        >>> HalveWeights()(ir.Model(graph, ir_version=8)).modified, [node.op_type for node in graph]
        (True, ['Cast', 'Relu'])
    """

    name: ClassVar[str] = "halve-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    min_sqnr_db: float = field(
        default=50.0, metadata={"help": "leave a weight in float32 when its rounding is noisier than this"}
    )
    only: tuple[str, ...] = field(default=(), metadata={"help": "names of the weights; none: all"})
    exclude: str = field(
        default="",
        metadata={"help": "leave these weights alone: comma-separated globs of names, or op:Conv by readers"},
    )

    def __post_init__(self) -> None:
        if not self.min_sqnr_db >= 0:
            raise OptionError(f"min_sqnr_db must not be negative, is {self.min_sqnr_db}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        if opset < _MIN_OPSET:
            self.decline(model.graph.name or "graph", f"opset {opset} is older than {_MIN_OPSET}")
            return ir.passes.PassResult(model, False)
        modified = False
        for scope in edit.scopes(model):
            if isinstance(scope, ir.Graph):
                for value in list(scope.initializers.values()):
                    modified |= self._halve(scope, value)
        return ir.passes.PassResult(model, modified)

    def stored(self, model: ir.Model) -> dict[str, Halved]:
        """The initializers of the main graph as they would be stored; the model stays as it is."""
        found = {name: self._half(value) for name, value in model.graph.initializers.items()}
        return {name: Halved(half) for name, half in found.items() if half is not None}

    def _half(self, value: ir.Value) -> npt.NDArray[np.float16] | None:
        tensor, name = value.const_value, value.name or ""
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or not self._saves(tensor.size, name):
            return None
        users = value.uses()
        if not users or value.is_graph_output() or value.is_graph_input():
            return None
        if (self.only and name not in self.only) or any(
            is_quantize(user) or is_dequantize(user) or is_decoding(user, i) for user, i in users
        ):
            return None
        excluded = Selection.parse(self.exclude)
        if excluded.has_name(name) or any(excluded.has_operator(user.op_type) for user, _ in users):
            self.decline(name, "excluded by the user")
            return None
        weight = tensor.numpy()
        with np.errstate(over="ignore"):
            half = weight.astype(np.float16)
        quality = sqnr_db(weight, half.astype(np.float32)) if np.isfinite(half).all() else -np.inf
        if quality < self.min_sqnr_db:
            self.decline(name, f"16 bits would leave {quality:.0f} dB, below {self.min_sqnr_db:g}")
            return None
        return half

    def _halve(self, graph: ir.Graph, value: ir.Value) -> bool:
        half, name = self._half(value), value.name or ""
        if half is None:
            return False
        stored = edit.add_initializer(graph, half, f"{name}_h")
        cast = edit.new_node("Cast", [stored], {"to": ir.DataType.FLOAT})
        wide = cast.outputs[0]
        wide.name = edit.unique_name(graph, f"{name}_w")
        wide.shape, wide.type = ir.Shape(half.shape), ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(next(iter(graph)), [cast])
        edit.replace_uses(value, wide)
        del graph.initializers[name]
        return True

    @staticmethod
    def _saves(size: int, name: str) -> bool:
        """Whether the file surely shrinks."""
        return 2 * size > _NODE_BYTES + 4 * len(name)
