"""Give products other weights and biases, which were fitted elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import Product, products_of
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["ReplaceWeights", "set_bias"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ReplaceWeights(Pass):
    """Write fitted values into the products of the main graph.

    1. An initializer named in ``weights`` gets these values.
    2. A product whose output, behind its bias, is named in ``biases`` gets that bias, where it adds one or
       could.

    Declined: values of another shape.

    Example:
        >>> x = ir.Value(name="x", shape=ir.Shape([1, 2]), type=ir.TensorType(ir.DataType.FLOAT))
        >>> graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.eye(2, dtype="f"), "w")
        >>> graph.append(ir.node("MatMul", [x, w]))
        >>> ReplaceWeights({"w": np.ones((2, 2), "f")})(ir.Model(graph, ir_version=8)).modified
        True
    """

    name: ClassVar[str] = "replace-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    weights: Mapping[str, Array] = field(
        default_factory=dict, metadata={"help": "values of initializers, by name"}
    )
    biases: Mapping[str, Array] = field(
        default_factory=dict, metadata={"help": "biases of products, by the name of what they give"}
    )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for product in products_of(model) if self.biases else ():
            bias = self.biases.get(product.name)
            if bias is None or not product.has_bias:
                continue
            groups, _, outputs = product.dims
            if bias.shape != (groups * outputs,):
                self.decline(product.name, f"a bias of shape {bias.shape} for {groups * outputs} channels")
            elif product.bias is None or not _same(edit.constant_value(product.bias), bias):
                set_bias(model, product, bias.astype(np.float32))
                modified = True
        for name, weight in self.weights.items():
            value = model.graph.initializers.get(name)
            old = None if value is None else edit.constant_value(value)
            if value is None or old is None or _same(old, weight):
                continue
            if old.shape != weight.shape:
                self.decline(name, f"values of shape {weight.shape} for a weight of {old.shape}")
                continue
            edit.replace_initializer(value, weight.astype(old.dtype))
            modified = True
        return ir.passes.PassResult(model, modified)


def _same(one: Array | None, other: Array) -> bool:
    return one is not None and np.array_equal(one, other.astype(one.dtype))


def set_bias(model: ir.Model, product: Product, bias: Array) -> None:
    """Let a product that adds a bias, or could, add this one; what else reads the old one keeps it."""
    old = product.bias
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
        edit.replace_initializer(old, bias)
        return
    new = edit.add_initializer(model.graph, bias, f"{product.name}_bias")
    if old is not None and product.linear.bias is None:
        user = product.output.producer()
        assert user is not None
        user.replace_input_with(list(user.inputs).index(old), new)
        return
    assert product.linear.bias is not None
    product.node.resize_inputs(max(len(product.node.inputs), product.linear.bias + 1))
    product.node.replace_input_with(product.linear.bias, new)
