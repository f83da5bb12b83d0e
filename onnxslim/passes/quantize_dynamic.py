"""Compute matrix products in 8 bits, with the scales of their inputs found while the model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.selection import unpicked
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model import edit
from onnxslim.passes._checked import refusals
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.rounding import round_symmetric
from onnxslim.runtime.errors import RuntimeRefused
from onnxslim.runtime.kernels import executed
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.placement import Placement, Times, place
from onnxslim.runtime.targets.target import DEFAULT_TARGET, Target
from onnxslim.runtime.targets.units import Unit, find_units, is_shared

__all__ = ["QuantizeDynamic"]

_MIN_OPSET = 11  # DynamicQuantizeLinear
_PRODUCTS = ("MatMul", "Gemm")
_RANGE = 2.0  # finding the range and rounding take so much of what rounding alone does


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Make matrix products with constant weights integer, without any calibration.

    1. ``MatMul`` and ``Gemm`` become ``MatMulInteger`` behind a ``DynamicQuantizeLinear``, which all products
       of one input share, and in front of ``Cast`` and ``Mul``; a bias is added as a float.  onnxruntime
       makes one kernel of these.  Weights are int8 with a scale per output channel.
    2. A minimum cut over the target's costs chooses the products that are worth it; the rest stays in float,
       declined with its two times.
    3. The runtime builds the graph; a product that did not become its kernel goes back to float.

    An input's range is that of the tensor at hand: outliers cost accuracy only where they occur, and a sample
    depends a little on the others in its batch.  Convolutions are left alone: ``ConvInteger`` is ten times
    slower than floats.

    Needs opset 11 (see ``raise-opset``), and a target that stands for the CPU provider.

    Example:
        >>> graph = ir.Graph([ir.Value(name="x")], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.eye(256, dtype=np.float32), "w")
        >>> graph.append(ir.node("MatMul", [graph.inputs[0], w]))
        >>> QuantizeDynamic(check=False)(ir.Model(graph, ir_version=8)).modified
        True
        >>> [node.op_type for node in graph]
        ['DynamicQuantizeLinear', 'MatMulInteger', 'Cast', 'Mul', 'Mul']
    """

    name: ClassVar[str] = "quantize-dynamic"
    promise: ClassVar[Promise] = Promise.LOSSY

    target: str = field(default=DEFAULT_TARGET, metadata={"help": "what the integers are placed for"})
    include: str = field(
        default="", metadata={"help": "quantize only these nodes: globs of names, or op:Gemm; default all"}
    )
    exclude: str = field(
        default="", metadata={"help": "leave these nodes in float: comma-separated globs of names, or op:Gemm"}
    )
    placement: Literal["pays", "all"] = field(
        default="pays", metadata={"help": "all: every product, whether it pays or not"}
    )
    times: Times = field(
        default_factory=dict, metadata={"help": "nanoseconds that products were measured to take"}
    )
    penalties: Mapping[str, float] = field(
        default_factory=dict, metadata={"help": "nanoseconds that a product must gain beside, for its noise"}
    )
    check: bool = field(default=True, metadata={"help": "look at the graph that the runtime builds"})

    @property
    def min_opset(self) -> int:
        """The first operator set that finds scales at run time."""
        return _MIN_OPSET

    @property
    def costs(self) -> Target:
        """The target's products alone, which all become one kernel, behind a quantizer that finds its range."""
        target = load_target(self.target)
        product, quantize = target.fusion(_PRODUCTS[0]), target.quantize
        fusions = tuple(
            replace(fusion, kernel=product.kernel, output="float", integer_cost=product.integer_cost)
            for fusion in target.fusions
            if fusion.op_type in _PRODUCTS and product is not None
        )
        slower = replace(quantize, node=_RANGE * quantize.node, output=_RANGE * quantize.output)
        return replace(target, fusions=fusions, quantize=slower)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset, target = model.opset_imports.get("", 0), load_target(self.target)
        reason = None
        if opset < _MIN_OPSET:
            reason = f"scales that are found at run time need opset {_MIN_OPSET}, the model has {opset}"
        elif not target.is_cpu:
            reason = f"{target.name} is not known to have kernels that find scales at run time"
        if reason is not None:
            self.decline(model.graph.name or "graph", reason)
            return ir.passes.PassResult(model, False)
        refused: Mapping[str, str] = {}
        if self.check:
            try:
                refused = refusals(lambda known: self._missed(edit.copy_of(model), known))
            except RuntimeRefused as error:
                self.decline(model.graph.name or "graph", f"quantized it does not run: {error.what}")
                return ir.passes.PassResult(model, False)
        return ir.passes.PassResult(model, bool(self._rewrite(model, refused, report=True)))

    def _missed(self, trial: ir.Model, refused: Mapping[str, str]) -> dict[str, str]:
        """Outputs of the products of which the runtime makes no single kernel; ``trial`` is spent."""
        products = self._rewrite(trial, refused)
        if not products:
            return {}
        built = executed(trial)
        return {
            output: "the runtime makes no single integer kernel of it"
            for output, product in products.items()
            if built.kernel_of(product) is not None
        }

    def _rewrite(self, model: ir.Model, refused: Mapping[str, str], *, report: bool = False) -> dict[str, str]:
        """Quantize what pays; returns each product's output with the name of its integer form."""
        shapes, writer = infer(model), _Writer(model.graph)
        products: dict[str, str] = {}
        for graph in edit.graphs(model):  # in a function, tensors have other shapes at every call
            units, reasons = self._plan(graph, shapes, refused)
            for node, why in reasons.items() if report else ():
                self.decline(node.name or node.outputs[0].name or "", why)
            products |= writer.quantize(units)
        return products

    def _plan(
        self, graph: ir.Graph, shapes: Shapes, refused: Mapping[str, str]
    ) -> tuple[Sequence[Unit], dict[ir.Node, str]]:
        def refuse(unit: Unit) -> str | None:
            known = unpicked(unit.node, self.include, self.exclude) or refused.get(unit.output.name or "")
            if known is None and is_shared(unit):
                known = "its weight is read elsewhere too, and would be stored twice"
            return known

        units, unfit = find_units(graph, self.costs, refuse)
        placement = Placement(tuple(units), {})
        if self.placement == "pays":
            placement = place(units, self.costs, shapes, self.times, self.penalties)
        reasons = {
            node: why
            for node, why in {**unfit, **placement.reasons}.items()
            if node.op_type in _PRODUCTS and edit.constant_value(node.inputs[1]) is not None
        }
        return placement.units, reasons


@dataclass(frozen=True)
class _Writer:
    """Puts the integer forms into the graphs of a model, whose main graph keeps the weights."""

    main: ir.Graph
    _weights: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def quantize(self, units: Sequence[Unit]) -> dict[str, str]:
        inputs: dict[ir.Value, list[ir.Value]] = {}
        products: dict[str, str] = {}
        for unit in units:
            [activation] = unit.activations
            if activation not in inputs:
                inputs[activation] = self._quantized(activation, unit.node)
            output = unit.output.name or ""
            products[output] = self._product(unit, *inputs[activation])
        return products

    def _quantized(self, value: ir.Value, before: ir.Node) -> list[ir.Value]:
        """The integers of a value, their scale and zero point, in front of the first product that reads it."""
        graph = before.graph
        assert isinstance(graph, ir.Graph)
        node = edit.new_node("DynamicQuantizeLinear", [value], num_outputs=3)
        types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
        for output, what, dtype in zip(node.outputs, ("quantized", "scale", "zero_point"), types, strict=True):
            output.name = edit.unique_name(graph, f"{value.name}_{what}")
            output.type, output.shape = ir.TensorType(dtype), ir.Shape(())
        node.outputs[0].shape = value.shape
        graph.insert_before(before, [node])
        return list(node.outputs)

    def _product(self, unit: Unit, integers: ir.Value, scale: ir.Value, zero: ir.Value) -> str:
        node, old = unit.node, unit.node.outputs[0]
        graph, source = node.graph, unit.weight
        assert isinstance(graph, ir.Graph) and source is not None
        weight, factors = self._weight(source, unit.weight_axis)
        product = edit.new_node("MatMulInteger", [integers, weight, zero], name=node.name)
        product.metadata_props.update(node.metadata_props)
        cast = edit.new_node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
        steps = edit.new_node("Mul", [scale, factors])
        nodes = [product, cast, steps, edit.new_node("Mul", [cast.outputs[0], steps.outputs[0]])]
        if (use := unit.role.bias) is not None and len(node.inputs) > use and node.inputs[use] is not None:
            nodes.append(edit.new_node("Add", [nodes[-1].outputs[0], node.inputs[use]]))
        for new in nodes:
            value = new.outputs[0]
            value.name = edit.unique_name(graph, f"{old.name}_{new.op_type.lower()}")
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), old.shape
        product.outputs[0].type = ir.TensorType(ir.DataType.INT32)
        steps.outputs[0].shape = factors.shape
        graph.insert_before(node, nodes)
        name, result = old.name, nodes[-1].outputs[0]
        edit.replace_uses(old, result)
        edit.remove_node(node)
        result.name = name
        edit.remove_unread(source)
        return product.outputs[0].name or ""

    def _weight(self, source: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
        """The stored int8 weight ``[in, out]`` and its scales; shared among equal uses."""
        if (source, axis) not in self._weights:
            weight = edit.constant_value(source)
            assert weight is not None
            rounded = round_symmetric(weight, (axis,))
            across = rounded.q if axis == 1 else np.ascontiguousarray(rounded.q.T)
            self._weights[source, axis] = (
                edit.add_initializer(self.main, across, f"{source.name}_quantized"),
                edit.add_initializer(self.main, rounded.scale.ravel(), f"{source.name}_scale"),
            )
        return self._weights[source, axis]
