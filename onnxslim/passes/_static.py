"""Write a static quantization into a graph: conversions, integer weights and biases around chosen units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes
from onnxslim.calibration.store import Calibration
from onnxslim.model import edit
from onnxslim.passes._rounding import Known
from onnxslim.reconstruct.affine import bias_int32, least_weight_scale, powers_of_two
from onnxslim.reconstruct.bias import rounding_shift
from onnxslim.reconstruct.float8 import FLOAT8, round_float8
from onnxslim.reconstruct.rounding import round_symmetric
from onnxslim.runtime.targets.target import Target
from onnxslim.runtime.targets.units import Unit

__all__ = ["StaticRules", "StaticWriter"]

Array = npt.NDArray[Any]

_FLOAT8 = ir.DataType[FLOAT8.upper()]
_NODE_BYTES = 160  # that a node with its names takes in the file


@dataclass(frozen=True)
class StaticRules:
    """What a target and the options of the pass say of the numbers.

    Attributes:
        target: its kernels decide which type a bias has.
        encode: scale and zero point of the activation of that name.
        shifts: scales are powers of two.
        correct_bias: biases make good what rounding the weights takes on average.
        known: integers of weights that were found elsewhere, by the name under which they are stored.
        float8: activations and weights are 8-bit floats, biases 32-bit floats.
    """

    target: Target
    encode: Callable[[str], tuple[np.float32, Any]]
    shifts: bool
    correct_bias: bool
    known: Mapping[str, Known] = field(default_factory=dict)
    float8: bool = False

    @property
    def integer_bias(self) -> bool:
        """Whether biases become int32."""
        return self.target.integer_bias and not self.float8


@dataclass(frozen=True)
class _Scale:
    """The scale of an activation, as a number and as stored, and its zero point."""

    number: float
    scale: ir.Value
    zero_point: ir.Value


class StaticWriter:
    """Puts the conversions around the units of one graph."""

    def __init__(
        self, graph: ir.Graph, shapes: Shapes, calibration: Calibration, rules: StaticRules
    ) -> None:
        self._graph, self._shapes = graph, shapes
        self._calibration, self._rules = calibration, rules
        self._scales: dict[ir.Value, _Scale] = {}
        self._names: dict[ir.Value, str] = {}
        self._zero_points: dict[int, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value, Array]] = {}

    def insert(self, units: Sequence[Unit]) -> list[str | None]:
        """Quantize the units; returns the name of each one's weight behind its conversion."""
        produced = {unit.output: unit for unit in units if unit.fusion.output != "float"}
        readers: dict[ir.Value, list[tuple[ir.Node, int]]] = {value: [] for value in produced}
        for unit in units:
            for index in unit.role.indices(unit.node):
                if index != unit.role.weight and (value := unit.node.inputs[index]) is not None:
                    readers.setdefault(value, []).append((unit.node, index))
        for unit in units:  # scales first: values are renamed below
            for value in (*unit.activations, unit.output):
                self._names[value] = value.name or ""
                if value in readers:
                    self._scale(value, produced)
        for value, uses in readers.items():
            self._convert(value, None if value in produced else uses)
        return [self._quantize_weight(unit) for unit in units]

    def _scale(self, value: ir.Value, produced: Mapping[ir.Value, Unit]) -> _Scale:
        if value not in self._scales:
            unit = produced.get(value)
            if unit is not None and unit.fusion.output == "same":
                self._scales[value] = self._scale(unit.activations[0], produced)
            else:
                assert value.name is not None
                scale, zero = self._rules.encode(value.name)
                self._scales[value] = _Scale(
                    float(scale),
                    edit.add_initializer(self._graph, np.array(scale), f"{value.name}_scale"),
                    edit.add_initializer(self._graph, np.array(zero), f"{value.name}_zero_point"),
                )
        return self._scales[value]

    def _convert(self, value: ir.Value, uses: Sequence[tuple[ir.Node, int]] | None) -> None:
        """Let ``uses`` (None: whatever reads it) read ``value`` through a quantizer and back."""
        scale = self._scales[value]
        quantize = self._quantizer(value, scale)
        dequantize = edit.new_node("DequantizeLinear", [quantize.outputs[0], scale.scale, scale.zero_point])
        quantized, restored = quantize.outputs[0], dequantize.outputs[0]
        quantized.name = edit.unique_name(self._graph, f"{value.name}_quantized")
        restored.name = edit.unique_name(self._graph, f"{value.name}_dequantized")
        restored.shape, restored.type = value.shape, value.type
        producer = value.producer()
        if producer is not None:
            self._graph.insert_after(producer, [quantize, dequantize])
        else:
            self._graph.insert_before(next(iter(self._graph)), [quantize, dequantize])
        if uses is None:
            edit.replace_uses(value, restored)
            quantize.replace_input_with(0, value)
        for node, index in uses or ():
            node.replace_input_with(index, restored)

    def _quantizer(self, value: ir.Value, scale: _Scale) -> ir.Node:
        if self._rules.float8:
            # onnxruntime 1.32 drops a Relu in front of a float8 zero point (ReluQuantRewrite), as if it were -448
            return edit.new_node("QuantizeLinear", [value, scale.scale], {"output_dtype": _FLOAT8})
        return edit.new_node("QuantizeLinear", [value, scale.scale, scale.zero_point])

    def _quantize_weight(self, unit: Unit) -> str | None:
        source = unit.weight
        if source is None:
            return None
        weight, axis = edit.constant_value(source), unit.weight_axis
        assert weight is not None and unit.role.weight is not None
        activation = self._scales[unit.activations[0]].number
        bias, use = None, unit.bias_use(self._shapes)
        if use is not None:
            bias = edit.constant_value(use[0].inputs[use[1]])
        q, scale, numbers = self._weight(source, weight, axis, bias, activation)
        if bias is not None and self._rules.correct_bias:
            bias = bias + self._shift(unit, weight, q, numbers)
        restored = self._dequantized(unit.node, q, scale, axis, f"{source.name}_dequantized")
        unit.node.replace_input_with(unit.role.weight, restored)
        edit.remove_unread(source)
        if use is not None and bias is not None:
            node, index = use
            old = node.inputs[index]
            assert old is not None
            if not self._rules.integer_bias:
                floats = bias.astype(np.float32)
                node.replace_input_with(index, edit.add_initializer(self._graph, floats, f"{old.name}_bias"))
                edit.remove_unread(old)
                return restored.name
            integers, factors = bias_int32(bias, activation, numbers)
            steps = self._scales[unit.activations[0]].scale
            restored_bias = self._dequantized(
                node,
                edit.add_initializer(self._graph, integers, f"{old.name}_quantized"),
                self._bias_scale(node, f"{old.name}_scale", steps, scale, factors),
                0,
                f"{old.name}_dequantized",
            )
            node.replace_input_with(index, restored_bias)
            edit.remove_unread(old)
        return restored.name

    def _bias_scale(
        self, before: ir.Node, name: str, activation: ir.Value, weight: ir.Value, factors: Array
    ) -> ir.Value:
        """Both scales multiplied: by a node that the runtime folds, where numbers would take more bytes."""
        if not self._rules.target.is_cpu or factors.nbytes <= _NODE_BYTES:
            return edit.add_initializer(self._graph, factors, name)
        node = edit.new_node("Mul", [weight, activation])
        [scale] = node.outputs
        scale.name = edit.unique_name(self._graph, name)
        scale.shape, scale.type = weight.shape, ir.TensorType(ir.DataType.FLOAT)
        self._graph.insert_before(before, [node])
        return scale

    def _weight(
        self, source: ir.Value, weight: Array, axis: int, bias: Array | None, activation: float
    ) -> tuple[ir.Value, ir.Value, Array]:
        """The stored weight, its stored scales and their numbers; shared among equal uses."""
        if self._rules.float8:
            return self._float8(source, weight)
        rounded = round_symmetric(weight, (axis,))
        least = np.zeros(weight.shape[axis]) if bias is None else least_weight_scale(bias, activation)
        shared = bool((rounded.scale.ravel() >= least).all())
        if self._rules.shifts:
            least = powers_of_two(np.maximum(rounded.scale.ravel(), least))
        if shared and (source, axis) in self._weights:
            return self._weights[source, axis]
        if self._rules.shifts or not shared:
            rounded = round_symmetric(weight, (axis,), least.reshape(rounded.scale.shape))
        numbers = rounded.scale.ravel()
        name = f"{source.name}_quantized"
        known = self._rules.known.get(name)
        better = known is not None and known.serves(rounded.q, 8)
        q = known.codes.decode() if known is not None and better else rounded.q
        stored = (
            edit.add_initializer(self._graph, q, name),
            edit.add_initializer(self._graph, numbers, f"{source.name}_scale"),
            numbers,
        )
        if shared:
            self._weights[source, axis] = stored
        return stored

    def _float8(self, source: ir.Value, weight: Array) -> tuple[ir.Value, ir.Value, Array]:
        """The same of 8-bit floats, with one scale; the axis does not matter to them."""
        if (source, 0) not in self._weights:
            codes, scale = round_float8(weight, power_of_two=self._rules.shifts)
            self._weights[source, 0] = (
                edit.add_initializer(self._graph, codes, f"{source.name}_quantized"),
                edit.add_initializer(self._graph, np.array(scale), f"{source.name}_scale"),
                np.reshape(scale, 1),
            )
        return self._weights[source, 0]

    def _shift(self, unit: Unit, weight: Array, q: ir.Value, scales: Array) -> Array | float:
        """What the bias of the unit has to make good."""
        name = self._names[unit.activations[0]]
        moments = self._calibration.moments(name) if name in self._calibration else None
        integers, axis = edit.constant_value(q), unit.weight_axis
        if moments is None or integers is None:
            return 0.0
        across = tuple(-1 if i == axis else 1 for i in range(weight.ndim))
        shift = rounding_shift(weight, integers * scales.reshape(across), axis, moments.mean)
        return 0.0 if shift is None else shift

    def _zeros(self, scale: ir.Value) -> ir.Value:
        assert scale.shape is not None
        size = scale.shape.numpy()[0]
        if size not in self._zero_points:
            zeros = np.zeros(size, np.int8)
            self._zero_points[size] = edit.add_initializer(self._graph, zeros, f"zero_points_{size}")
        return self._zero_points[size]

    def _dequantized(self, before: ir.Node, q: ir.Value, scale: ir.Value, axis: int, name: str) -> ir.Value:
        inputs = [q, scale]
        if q.dtype == ir.DataType.INT8:  # Gemm is not recognized without
            inputs.append(self._zeros(scale))
        node = edit.new_node("DequantizeLinear", inputs, {"axis": axis})
        restored = node.outputs[0]
        restored.name = edit.unique_name(self._graph, name)
        restored.shape, restored.type = q.shape, ir.TensorType(ir.DataType.FLOAT)
        self._graph.insert_before(before, [node])
        return restored
