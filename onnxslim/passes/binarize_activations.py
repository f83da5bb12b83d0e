"""Let products read signs: each input that was chosen becomes one of two values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.signs import Levels

__all__ = ["BinarizeActivations", "multiplied"]

MIN_OPSET = 9  # Where, and comparisons of floats


@dataclass(frozen=True)
class BinarizeActivations(Pass):
    """Replace what products multiply with ``scale * sign(x - threshold) + offset``.

    Rastegari et al., "XNOR-Net", 2016, with a threshold and an offset, since few activations are centred.
    Written as ``Where(x > threshold, high, low)``: two nodes, and really two values, where ``Sign`` has three.
    No kernel of onnxruntime multiplies signs, so this saves neither time nor bytes there; it says in
    standard operators what a runtime with such kernels needs to know.

    1. The first input of a product in ``known`` is replaced; products that read one value at the same levels
       share the nodes.

    Declined: products in ``known`` that the main graph has not, or that read no float32.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,2] x, float[2,1] w) => (float[1,1] y) { y = MatMul(x, w) }'''))
        >>> BinarizeActivations({"y": Levels(-1.0, 1.0)})(model).modified, [node.op_type for node in model.graph]
        (True, ['Greater', 'Where', 'MatMul'])
    """

    name: ClassVar[str] = "binarize-activations"
    promise: ClassVar[Promise] = Promise.LOSSY

    known: Mapping[str, Levels] = field(
        default_factory=dict, metadata={"help": "levels of its input, by the output of the product's node"}
    )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not self.known:
            return ir.passes.PassResult(model, False)
        opset = model.opset_imports.get("", 0)
        if opset < MIN_OPSET:
            self.decline(model.graph.name or "graph", f"opset {opset} is older than {MIN_OPSET}")
            return ir.passes.PassResult(model, False)
        shapes = infer(model)
        nodes = {node.outputs[0].name: node for node in model.graph if node.outputs}
        made: dict[tuple[ir.Value, Levels], ir.Value] = {}
        modified = False
        for name, levels in self.known.items():
            node = nodes.get(name)
            value = None if node is None else multiplied(node, shapes)
            if node is None or value is None:
                self.decline(name, "no product of the main graph that reads float32")
                continue
            if _is_binary(value, levels):
                continue
            if (value, levels) not in made:
                made[value, levels] = _binary(model.graph, node, value, levels)
            node.replace_input_with(0, made[value, levels])
            modified = True
        return ir.passes.PassResult(model, modified)


def multiplied(node: ir.Node, shapes: Shapes) -> ir.Value | None:
    """What a product multiplies with its weight, where that is float32; None for other nodes."""
    spec = spec_of(node)
    role = spec.quant if spec is not None else None
    if role is None or role.weight is None or role.integer or role.indices(node)[:1] != (0,):
        return None
    value = node.inputs[0] if node.inputs else None
    return value if value is not None and shapes.dtype(value) == ir.DataType.FLOAT else None


def _is_binary(value: ir.Value, levels: Levels) -> bool:
    """Whether a value has these two levels already."""
    node = value.producer()
    if node is None or node.op_type != "Where":
        return False
    wanted = (levels.high, levels.low)
    found = [edit.constant_value(source) for source in node.inputs[1:]]
    return all(
        stored is not None and stored.size == 1 and stored.item() == np.float32(each)
        for stored, each in zip(found, wanted, strict=True)
    )


def _binary(graph: ir.Graph, reader: ir.Node, value: ir.Value, levels: Levels) -> ir.Value:
    """The value as one of two, made where it is made, so that all its readers may have it."""
    maker = value.producer()
    parts = {"t": levels.threshold, "h": levels.high, "l": levels.low}
    threshold, high, low = (
        edit.add_constant(graph, np.array(part, np.float32), f"{value.name}_{suffix}", before=reader)
        for suffix, part in parts.items()
    )
    greater = edit.new_node("Greater", [value, threshold], {})
    where = edit.new_node("Where", [greater.outputs[0], high, low], {})
    greater.outputs[0].name = edit.unique_name(graph, f"{value.name}_above")
    where.outputs[0].name = edit.unique_name(graph, f"{value.name}_sign")
    where.outputs[0].shape, where.outputs[0].type = value.shape, value.type
    if maker is not None and maker.graph is graph:
        graph.insert_after(maker, [greater, where])
    else:
        graph.insert_before(next(iter(graph)), [greater, where])
    return where.outputs[0]
