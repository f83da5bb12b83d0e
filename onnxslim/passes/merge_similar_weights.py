"""Store weights once that are equal up to a relative error, whole or row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.weights import as_initializer
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes._decoding import Decoder, Rows
from onnxslim.passes._weights import constants, float_weight, remove
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.medoids import Cover, cover

__all__ = ["MergeSimilarWeights"]

Array = npt.NDArray[Any]

_MIN_OPSET = 7  # arithmetic broadcasts since then
_NODE_BYTES = 400  # of the nodes and shapes of one weight in the file, names aside
_GROUP_BYTES = 1 << 30  # of weights of one shape that are compared
_ROWS = 1 << 16  # of a weight, or blocks
_SAMPLE = 4096  # of them tell whether there is anything to share


@dataclass(frozen=True)
class MergeSimilarWeights(Pass):
    """Let float32 weights, their rows, columns or blocks be one where they differ by little.

    ``tolerance`` bounds the norm of the difference, relative to the norm of what is replaced; the bound is
    verified on the numbers that the runtime computes.

    1. A whole weight becomes another one of its shape, or that times a number (``Mul``).
    2. Rows (along the first axis), columns (along the last of two) or runs of ``block`` elements that are
       near each other, or multiples, are stored once: a table of them, an index for each and, where there
       are multiples, a scale for each (``Gather`` and ``Mul``).

    The nodes read stored tensors only, so onnxruntime computes them while it loads the model, at every
    optimization level but "none".  Vectors stay, and so does everything whose table, indices and scales would
    not be smaller.  Declined: weights that are not finite, and more than 65536 rows.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> row = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
        >>> w = edit.add_initializer(graph, np.arange(1, 65, dtype="f")[:, None] * row, "w")
        >>> graph.append(ir.node("Relu", [w]))
        >>> MergeSimilarWeights()(ir.Model(graph, ir_version=8)).modified, [n.op_type for n in graph]
        (True, ['Cast', 'Gather', 'Mul', 'Relu'])
    """

    name: ClassVar[str] = "merge-similar-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    tolerance: float = field(default=1e-3, metadata={"help": "relative error of what is replaced"})
    to: Literal["multiples", "equals"] = field(
        default="multiples", metadata={"help": "share what is equal up to a factor too, or only what is not"}
    )
    block: int = field(default=16, metadata={"help": "elements of a run that is looked for; 0: none are"})

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise OptionError(f"tolerance must be between 0 and 1, is {self.tolerance}")
        if self.to not in ("multiples", "equals"):
            raise OptionError(f"to must be multiples or equals, is {self.to}")
        if self.block < 0:
            raise OptionError(f"block must not be negative, is {self.block}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        if opset < _MIN_OPSET:
            self.decline(model.graph.name or "graph", f"opset {opset} is older than {_MIN_OPSET}")
            return ir.passes.PassResult(model, False)
        modified = False
        for scope in edit.scopes(model):
            found = [(value, weight) for value in constants(scope) if (weight := self._usable(value)) is not None]
            left = list(self._whole(scope, found)) if isinstance(scope, ir.Graph) else found
            modified |= len(left) < len(found)
            decoder = Decoder(scope)
            for value, weight in left:
                modified |= self._by_rows(scope, value, weight, decoder)
        return ir.passes.PassResult(model, modified)

    def _usable(self, value: ir.Value) -> Array | None:
        weight = float_weight(value)
        if weight is not None and not np.isfinite(weight).all():
            self.decline(value.name or "", "the weight is not finite")
            return None
        return weight

    def _whole(
        self, graph: ir.Graph, found: Sequence[tuple[ir.Value, Array]]
    ) -> Iterator[tuple[ir.Value, Array]]:
        """Share whole weights; yields what is left."""
        shapes: dict[tuple[int, ...], list[tuple[ir.Value, Array]]] = defaultdict(list)
        for value, weight in found:
            shapes[weight.shape].append((value, weight))
        for same in shapes.values():
            if len(same) == 1 or sum(weight.nbytes for _, weight in same) > _GROUP_BYTES:
                yield from same
                continue
            near = self._cover(np.stack([weight.reshape(-1) for _, weight in same]))
            read = set(near.base[near.base != np.arange(len(same))].tolist())
            bases = {at: as_initializer(same[at][0]) for at in read}
            for at, (value, weight) in enumerate(same):
                if near.base[at] != at:
                    _replace(graph, value, bases[int(near.base[at])], near.scale[at])
                elif at not in read:  # others are made of it
                    yield value, weight

    def _by_rows(self, scope: edit.Scope, value: ir.Value, weight: Array, decoder: Decoder) -> bool:
        best: Rows | None = None
        for axis, rows in self._cuts(weight):
            if len(rows) > _ROWS and axis is not None:
                self.decline(value.name or "", f"{len(rows)} rows are too many to compare")
            if len(rows) > _ROWS or (len(rows) > _SAMPLE and not self._promising(rows)):
                continue
            form = _stored(self._cover(rows), rows, weight.shape, axis)
            if best is None or form.nbytes < best.nbytes:
                best = form
        if best is None or best.nbytes + _NODE_BYTES + 4 * len(value.name or "") >= weight.nbytes:
            return False
        edit.replace_uses(value, decoder.rows(best, value.name or ""))
        remove(scope, value)
        return True

    def _cuts(self, weight: Array) -> Iterator[tuple[int | None, Array]]:
        """Ways to see the weight as rows: along an axis, or (None) runs of elements."""
        yield 0, weight.reshape(len(weight), -1)
        if weight.ndim == 2:
            yield 1, np.ascontiguousarray(weight.T)
        if self.block and weight.size % self.block == 0 and self.block < weight[0].size:
            yield None, weight.reshape(-1, self.block)

    def _promising(self, rows: Array) -> bool:
        chosen = np.random.default_rng(0).choice(len(rows), _SAMPLE, replace=False)
        near = self._cover(rows[chosen])
        return bool(np.count_nonzero(near.base != np.arange(len(chosen))) > 0.002 * len(chosen))

    def _cover(self, rows: Array) -> Cover:
        return cover(rows, self.tolerance, scaled=self.to == "multiples")


def _replace(graph: ir.Graph, value: ir.Value, base: ir.Value, scale: np.float32) -> None:
    made = base
    if scale != 1:
        name = value.name or "w"
        factor = edit.add_initializer(graph, np.array(scale), f"{name}_s")
        node = edit.new_node("Mul", [base, factor])
        made = node.outputs[0]
        made.name = edit.unique_name(graph, f"{name}_w")
        made.shape, made.type = value.shape, ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(graph[0], [node])
    edit.replace_uses(value, made)
    remove(graph, value)


def _stored(near: Cover, rows: Array, shape: tuple[int, ...], axis: int | None) -> Rows:
    kept, index = np.unique(near.base, return_inverse=True)
    small = np.uint8 if len(kept) <= 256 else np.uint16 if len(kept) <= 1 << 16 else np.int32
    scale = None if (near.scale == 1).all() else near.scale
    return Rows(rows[kept], index.reshape(-1).astype(small), scale, shape, axis)
