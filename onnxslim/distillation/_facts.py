"""What is known about a model's values, also behind operators that onnx does not infer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx.defs

from onnxslim._ir import ir
from onnxslim.analysis.channels.refine import refined
from onnxslim.analysis.facts import Known
from onnxslim.ops.attributes import opset_of
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import Array, Dims, OpSpec

__all__ = ["Refined"]


_SMALL = 64  # elements


class Refined:
    """The :class:`onnxslim.ops.spec.Facts` of a model, node by node where inference over the whole stops."""

    def __init__(self, model: ir.Model) -> None:
        self._known = Known(model)
        self._dims: dict[ir.Value, Dims] = {}
        self._types: dict[ir.Value, ir.DataType] = {}
        self._computed: dict[ir.Value, Array] = {}
        for node in model.graph:
            if any(self.shape(output) is None for output in node.outputs):
                self._dims |= refined(node, self, self.constant, self._elements, self._extents)
            self._spread_types(node)
            self._compute(node)

    def _compute(self, node: ir.Node) -> None:
        """Sizes, axes and what is made of them: small results of what is known."""
        spec = spec_of(node)
        if spec is None or (spec.from_dims is None and spec.numpy is None):
            return
        try:
            outputs = self._evaluated(node, spec)
        except (ArithmeticError, IndexError, TypeError, ValueError):
            return
        self._computed.update(zip(node.outputs, outputs, strict=False))

    def _evaluated(self, node: ir.Node, spec: OpSpec) -> Sequence[Array]:
        """Outputs of a node whose inputs, or their shapes, are known."""
        if spec.from_dims is not None:
            dims = None if node.inputs[0] is None else self.shape(node.inputs[0])
            if dims is None or not all(isinstance(d, int) for d in dims):
                return []
            made = spec.from_dims(node, np.array(dims, np.int64))
            return [] if made is None else [made]
        inputs = [None if value is None else self.constant(value) for value in node.inputs]
        for array, value in zip(inputs, node.inputs, strict=True):
            if (array is None and value is not None) or (array is not None and array.size > _SMALL):
                return []
        size = None if spec.output_bytes is None else spec.output_bytes(node, inputs)
        if spec.numpy is None or size is None or size > 16 * _SMALL:
            return []
        return spec.numpy(node, inputs)

    def _spread_types(self, node: ir.Node) -> None:
        """Outputs of an input's type by the standard, or of the first input's where there is no schema."""
        if all(self.dtype(output) is not None for output in node.outputs):
            return
        types = [None if value is None else self.dtype(value) for value in node.inputs]
        try:
            domain = "" if node.domain == "ai.onnx" else node.domain
            schema = onnx.defs.get_schema(
                node.op_type, opset_of(node) or onnx.defs.onnx_opset_version(), domain
            )
        except onnx.defs.SchemaError:
            spec = spec_of(node)
            if spec is not None and spec.dims is not None and types and types[0] is not None:
                self._types[node.outputs[0]] = types[0]
            return
        last = len(schema.inputs) - 1
        known = {schema.inputs[min(k, last)].type_str: dtype for k, dtype in enumerate(types) if dtype}
        for formal, output in zip(schema.outputs, node.outputs, strict=False):
            dtype = known.get(formal.type_str)
            if dtype is not None and self.dtype(output) is None:
                self._types[output] = dtype

    def _elements(self, value: ir.Value) -> list[int] | None:
        content = self.constant(value)
        return None if content is None else [int(each) for each in content.ravel()]

    def _extents(self, value: ir.Value) -> list[int]:
        dims = self.shape(value)
        return [d for d in dims or () if isinstance(d, int)]

    def shape(self, value: ir.Value) -> Dims | None:
        """Dimensions: an int, a name that means the same size everywhere, or None; None if all is unknown."""
        found = self._dims.get(value)
        return self._known.shape(value) if found is None else found

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a tensor."""
        found = self._types.get(value)
        return self._known.dtype(value) if found is None else found

    def constant(self, value: ir.Value) -> Array | None:
        """Content of a value that is the same in every run."""
        found = self._computed.get(value)
        return self._known.constant(value) if found is None else found
