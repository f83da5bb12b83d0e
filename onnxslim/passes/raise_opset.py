"""Bring a model to a newer operator set, with onnx's own version converter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import onnx
import onnx.helper
import onnx.version_converter

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["RaiseOpset"]

_LARGE = 256  # elements; the converter looks into smaller tensors only (shapes, axes)
_NEWEST = 25


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Convert the standard operators to the operator set ``opset`` where the model's is older.

    The conversion is onnx's own (``onnx.version_converter``); large weights do not pass through it.  Declined
    where the converter fails, and for models with functions of their own, which it does not convert.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model(
        ...     '<ir_version: 4, opset_import: ["": 9]> g (float[2] x) => (float[2] y) { y = Relu(x) }'))
        >>> RaiseOpset()(model).modified, model.opset_imports[""]
        (True, 13)
    """

    name: ClassVar[str] = "raise-opset"
    promise: ClassVar[Promise] = Promise.CLOSE

    opset: int = field(default=13, metadata={"help": "the oldest operator set that will do"})

    def __post_init__(self) -> None:
        if not 1 <= self.opset <= _NEWEST:
            raise OptionError(f"opset must be 1 to {_NEWEST}, is {self.opset}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        current = model.opset_imports.get("", 0)
        if current >= self.opset or not current:
            return ir.passes.PassResult(model, False)
        where = model.graph.name or "graph"
        if model.functions:
            self.decline(where, "functions of the model's own are not converted")
            return ir.passes.PassResult(model, False)
        try:
            converted = self._convert(model)
        except Exception as error:  # the converter raises whatever an operator provokes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.decline(where, f"opset {current} cannot be converted to {self.opset}: {reason[:160]}")
            return ir.passes.PassResult(model, False)
        model.graph = converted.graph
        model.opset_imports.update(converted.opset_imports)
        needed = onnx.helper.make_opsetid("", self.opset)
        model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for([needed]))
        return ir.passes.PassResult(model, True)

    def _convert(self, model: ir.Model) -> ir.Model:
        weights = {
            name: value.const_value
            for name, value in model.graph.initializers.items()
            if value.const_value is not None
            and value.const_value.size > _LARGE
            and not value.is_graph_input()
        }
        slim = model.clone()
        for name, weight in weights.items():
            # A tensor without content: the converter reads the type and the dimensions.
            hollow = onnx.TensorProto(name=name, data_type=int(weight.dtype), dims=weight.shape.numpy())
            edit.replace_initializer(slim.graph.initializers[name], ir.TensorProtoTensor(hollow))
        proto = ir.to_proto(slim)
        converted = ir.from_proto(onnx.version_converter.convert_version(proto, self.opset))
        converted.graph.meta.update(model.graph.meta)  # what onnx_ir cannot hold is carried there
        for name, weight in weights.items():
            edit.replace_initializer(converted.graph.initializers[name], weight)
        inputs = [value.name for value in converted.graph.inputs]
        if inputs != [value.name for value in model.graph.inputs]:
            raise ValueError("the converter changes the inputs")
        return converted
