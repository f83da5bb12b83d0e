"""Give every reader of a shared vector one of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.analysis.constants import tensor_of
from onnxslim.analysis.weights import weights
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["SeparateVectors"]

_SHARED = (ir.DataType.INT64, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class SeparateVectors(Pass):
    """Give every reader of a shared vector one of its own: a bias, a scale.

    Exporters store equal vectors once, zeros above all, though the layers that read them have nothing to do
    with one another.  Channels that share nothing else could then only be removed together.  A copy costs
    few bytes, and ``deduplicate-initializers`` makes equal ones one again.

    Integers of 64 bits, which hold sizes and indices, stay shared, and so does what the caller may override.
    So do vectors in half precision, since equal ones are not made one again.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { h = Add(x, a)  y = Mul(h, a) }'''))
        >>> SeparateVectors()(model).modified, list(model.graph.initializers)
        (True, ['a', 'a_own'])
    """

    name: ClassVar[str] = "separate-vectors"
    promise: ClassVar[Promise] = Promise.EXACT

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for value in tuple(weights(model)):
            tensor = tensor_of(value)
            assert tensor is not None
            if len(tensor.shape) != 1 or tensor.size < 2 or tensor.dtype in _SHARED:
                continue
            readers = list(dict.fromkeys(user for user, _ in value.uses()))
            for reader in readers[0 if value.is_graph_output() else 1 :]:
                graph = value.graph
                assert isinstance(graph, ir.Graph)
                own = edit.add_initializer(graph, tensor, f"{value.name}_own")
                for index, read in enumerate(reader.inputs):
                    if read is value:
                        reader.replace_input_with(index, own)
                modified = True
        return ir.passes.PassResult(model, modified)
