"""The products of a model with stored weights, in an order in which they can be fitted one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxslim._ir import ir
from onnxslim.model.edit import constant_value, subgraphs
from onnxslim.ops.linear import Linear, bias_after
from onnxslim.ops.registry import spec_of

__all__ = ["Product", "owned", "products_of", "with_levels"]


@dataclass(frozen=True)
class Product:
    """One product of the main graph.

    Attributes:
        node: what computes it.
        linear: how.
        weight: an initializer that nothing else reads.
        bias: what is added to it, None where there is nothing.
        output: the value with the bias added.
        level: how many products lie before it on the longest way from an input.
    """

    node: ir.Node
    linear: Linear
    weight: ir.Value
    bias: ir.Value | None
    output: ir.Value
    level: int

    @property
    def name(self) -> str:
        """The name of its output."""
        return self.output.name or ""

    @property
    def input(self) -> ir.Value:
        """What is multiplied with the weight."""
        value = self.node.inputs[self.linear.input]
        assert value is not None
        return value

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        assert self.weight.const_value is not None
        return tuple(self.weight.const_value.shape.numpy())

    @property
    def has_bias(self) -> bool:
        """Whether it adds a bias, or could."""
        return self.bias is not None or self.linear.bias is not None

    @property
    def dims(self) -> tuple[int, int, int]:
        """Groups, length of the rows and outputs of each."""
        groups, length, outputs = self.linear.matrix(np.empty(self.shape, np.bool_)).shape
        return groups, length, outputs


def products_of(model: ir.Model) -> list[Product]:
    """Every product with a float32 weight of its own, in topological order.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[n,2] x) => (float[n,2] z) <float[2,2] v = {1,2,3,4}, float[2,2] w = {1,2,3,4},
        ...     float[2] b = {1,2}> { y = MatMul(x, v)  a = Add(y, b)  r = Relu(a)  z = MatMul(r, w) }'''
        >>> [(p.name, p.level) for p in products_of(ir.from_proto(onnx.parser.parse_model(text)))]
        [('a', 0), ('z', 1)]
    """
    return [product for _, _, product in with_levels(model) if product is not None]


def with_levels(model: ir.Model) -> Iterator[tuple[ir.Node, int, Product | None]]:
    """Every node of the main graph, how many products lie before it, and the product that it is."""
    levels: dict[ir.Value, int] = {}
    for node in model.graph:
        inside = (inner for graph in subgraphs(node) for inner in graph.all_nodes())
        read = [value for each in (node, *inside) for value in each.inputs if value is not None]
        level = max((levels.get(value, 0) for value in read), default=0)
        product = _product(node, level)
        yield node, level, product
        for value in node.outputs:
            levels[value] = level + (product is not None)


def _product(node: ir.Node, level: int) -> Product | None:
    spec = spec_of(node)
    if spec is None or spec.linear is None or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    if weight is None or not owned(weight) or weight.dtype != ir.DataType.FLOAT:
        return None
    assert weight.const_value is not None
    if not weight.const_value.size:
        return None
    try:
        linear = spec.linear(node, tuple(weight.const_value.shape.numpy()))
    except (TypeError, ValueError, IndexError):  # an invalid node
        return None
    source = None if linear is None else node.inputs[linear.input]
    if linear is None or source is None or constant_value(source) is not None:
        return None
    if linear.bias is not None:
        bias = node.inputs[linear.bias] if len(node.inputs) > linear.bias else None
        stored = constant_value(bias)
        if bias is not None and (stored is None or stored.ndim != 1):
            return None
        return Product(node, linear, weight, bias, node.outputs[0], level)
    added = bias_after(node)
    if added is None:
        return Product(node, linear, weight, None, node.outputs[0], level)
    return Product(node, linear, weight, added[1], added[0].outputs[0], level)


def owned(value: ir.Value) -> bool:
    """Whether a value is a stored tensor that one node alone reads, and nobody outside."""
    return (
        value.is_initializer()
        and not value.is_graph_input()
        and not value.is_graph_output()
        and value.const_value is not None
        and len(value.uses()) == 1
    )
