"""Quantizers at the inputs and outputs of a model, so that they can become integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.calibration.calibrators import Method
from onnxslim.calibration.store import Calibration
from onnxslim.model import edit
from onnxslim.ops.registry import is_dequantize, is_quantize
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.affine import affine

__all__ = ["QuantizePorts"]

_MIN_OPSET = 10  # QuantizeLinear exists since then


@dataclass(frozen=True)
class QuantizePorts(Pass):
    """Put a QuantizeLinear / DequantizeLinear pair behind each float input and in front of each float output.

    1. What reads an input in float reads it through a pair; where it is quantized for some of its readers
       already, through the same scale.
    2. An output that is computed in float passes through a pair of its own.

    Together with ``integer-io`` a model takes and gives integers however much of it computes in float.
    Declined: what was not calibrated (an input with a default value, what holds no floats, random outputs).
    """

    name: ClassVar[str] = "quantize-ports"
    promise: ClassVar[Promise] = Promise.LOSSY

    calibration: Calibration | None = field(default=None, metadata={"help": "ranges of inputs and outputs"})
    method: Method = field(default="minmax", metadata={"help": "how a range is found in the calibration"})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, opset = model.graph, model.opset_imports.get("", 0)
        if self.calibration is None or opset < _MIN_OPSET:
            reason = f"opset {opset} is older than {_MIN_OPSET}" if self.calibration else "needs a calibration"
            self.decline(graph.name or "graph", reason)
            return ir.passes.PassResult(model, False)
        modified = False
        for value in graph.inputs:
            if value.dtype == ir.DataType.FLOAT:
                modified |= self._input(graph, value, self.calibration)
        for value in list(graph.outputs):
            producer = value.producer()
            if value.dtype == ir.DataType.FLOAT and producer is not None and not is_dequantize(producer):
                modified |= self._output(graph, value, self.calibration)
        return ir.passes.PassResult(model, modified)

    def _input(self, graph: ir.Graph, value: ir.Value, calibration: Calibration) -> bool:
        readers = [(node, index) for node, index in value.uses() if not (is_quantize(node) and index == 0)]
        if not readers:
            return False
        quantizer = next((node for node, index in value.uses() if is_quantize(node) and index == 0), None)
        if quantizer is not None:
            pair = [
                edit.new_node("DequantizeLinear", [quantizer.outputs[0], *quantizer.inputs[1:]])
            ]
            graph.insert_after(quantizer, pair)
        elif value.name in calibration:
            pair = self._pair(graph, value, calibration)
            graph.insert_before(next(iter(graph)), pair)
        else:
            self.decline(value.name or "", "was not calibrated")
            return False
        restored = self._named(graph, pair, value)
        for node, index in readers:
            node.replace_input_with(index, restored)
        return True

    def _output(self, graph: ir.Graph, value: ir.Value, calibration: Calibration) -> bool:
        if value.name not in calibration:
            self.decline(value.name or "", "was not calibrated")
            return False
        uses = tuple(value.uses())
        pair = self._pair(graph, value, calibration)
        graph.extend(pair)
        restored = self._named(graph, pair, value)
        edit.replace_uses(value, restored)
        pair[0].replace_input_with(0, value)
        for node, index in uses:  # inside nothing is lost
            node.replace_input_with(index, value)
        return True

    def _pair(self, graph: ir.Graph, value: ir.Value, calibration: Calibration) -> list[ir.Node]:
        assert value.name is not None
        scale, zero = affine(*calibration.range(value.name, self.method))
        numbers = [
            edit.add_initializer(graph, np.array(scale), f"{value.name}_scale"),
            edit.add_initializer(graph, np.array(zero), f"{value.name}_zero_point"),
        ]
        quantize = edit.new_node("QuantizeLinear", [value, *numbers])
        return [quantize, edit.new_node("DequantizeLinear", [quantize.outputs[0], *numbers])]

    @staticmethod
    def _named(graph: ir.Graph, pair: list[ir.Node], value: ir.Value) -> ir.Value:
        """Names, shapes and types for what the pair computes; returns the floats."""
        if len(pair) == 2:
            quantized = pair[0].outputs[0]
            quantized.name = edit.unique_name(graph, f"{value.name}_quantized")
            quantized.shape, quantized.type = value.shape, ir.TensorType(ir.DataType.UINT8)
        restored = pair[-1].outputs[0]
        restored.name = edit.unique_name(graph, f"{value.name}_dequantized")
        restored.shape, restored.type = value.shape, value.type
        return restored
