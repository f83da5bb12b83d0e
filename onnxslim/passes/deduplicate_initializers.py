"""Keep one copy of every weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.analysis.constants import tensor_of
from onnxslim.analysis.weights import as_initializer, nearest, parents, weights
from onnxslim.model import edit
from onnxslim.model.hashing import array_of, tensor_digest
from onnxslim.passes.base import Pass

__all__ = ["DeduplicateInitializers"]

_PREFIX = 16  # elements compared before whole tensors are hashed
_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_CAST = "shared half-precision weights are cast in each run by onnxruntime's CPU provider, others once at load"


@dataclass(frozen=True)
class DeduplicateInitializers(Pass):
    """Let stored tensors of equal dtype, shape and bits be one.

    1. An initializer gives way to an equal one of its own graph or of one around it, never the other way
       round.  Graph inputs (callers may override their defaults) and graph outputs keep theirs.
    2. So does a Constant node of a graph; where one is to be shared, it becomes an initializer.

    Positive and negative zero and the payloads of NaN differ.  Content is read only where dtype, shape and
    the first elements agree, in chunks, so weights of any size cost no memory.

    Declined: equal weights in half precision, unless ``half`` is set.  Where the CPU provider has no kernel
    for them it casts to float, and folds that cast into a weight only if a single node reads it.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}>
        ...     { h = Add(x, a)  y = Mul(h, b) }'''))
        >>> DeduplicateInitializers()(model).modified, list(model.graph.initializers)
        (True, ['a'])
    """

    name: ClassVar[str] = "deduplicate-initializers"

    half: bool = field(default=False, metadata={"help": "share weights in half precision too"})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        by_prefix: dict[Hashable, list[ir.Value]] = defaultdict(list)
        for value in weights(model):
            by_prefix[_prefix(_tensor(value))].append(value)
        modified, around = False, parents(model)
        for values in by_prefix.values():
            if len(values) > 1:
                modified |= self._share(values, around)
        return ir.passes.PassResult(model, modified)

    def _share(self, values: Iterable[ir.Value], around: Mapping[ir.Graph, ir.Graph]) -> bool:
        """Among tensors that may be equal, point users of the later ones to the earlier ones."""
        by_content: dict[bytes, list[ir.Value]] = defaultdict(list)
        for value in values:
            by_content[tensor_digest(_tensor(value))].append(value)
        modified = False
        for equal in by_content.values():
            kept: dict[ir.Graph, ir.Value] = {}
            for value in equal:
                graph = value.graph
                assert isinstance(graph, ir.Graph) and value.name is not None
                shared = nearest(graph, kept, around)
                if shared is None or value.is_graph_output():
                    kept.setdefault(graph, value)
                    continue
                if _tensor(value).dtype in _HALF and not self.half:
                    self.decline(value.name, _CAST)
                    continue
                if shared.producer() is not None:
                    home = shared.graph
                    assert isinstance(home, ir.Graph)
                    shared = kept[home] = as_initializer(shared)
                for user, index in tuple(value.uses()):
                    user.replace_input_with(index, shared)
                edit.remove_unread(value)
                modified = True
        return modified


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = tensor_of(value)
    assert tensor is not None
    return tensor


def _prefix(tensor: ir.TensorProtocol) -> Hashable:
    """Differs only between tensors that differ, and costs one page of memory at most."""
    shape = tuple(tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8:  # reading a part reads them whole
        return tensor.dtype, shape
    return tensor.dtype, shape, array_of(tensor).reshape(-1)[:_PREFIX].tobytes()
