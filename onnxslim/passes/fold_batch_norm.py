"""Fold what scales and shifts channels into the weights of the node before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes._linear import Affine, Array, Linear, affine_of, set_input
from onnxslim.passes.base import Pass, Promise

__all__ = ["FoldBatchNorm"]

@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold BatchNormalization, and arithmetic with one constant per channel, into the weights before it.

    The nodes before are Conv, ConvTranspose, Gemm and MatMul, the arithmetic Mul, Div, Add and Sub.  With
    ``y = a * (w x + c) + b`` per output channel, the weight becomes ``a w`` and the bias ``a c + b``
    (Ioffe and Szegedy 2015, inference form: ``a = scale / sqrt(var + epsilon)``, ``b = bias - mean a``).  A
    run of such nodes is composed in float64 and rounded once.

    Declined: a weight that other nodes read too (a copy would make the file larger), float16 and bfloat16
    (rounding the scaled weight costs more than the promise allows), results that overflow.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,1,4] x) => (float[1,1,4] y) <float[1,1,1] w = {2}, float[1] s = {3}>
        ...     { h = Conv(x, w)  y = Mul(h, s) }'''))
        >>> FoldBatchNorm()(model).modified, [node.op_type for node in model.graph]
        (True, ['Conv'])
    """

    name: ClassVar[str] = "fold-batch-norm"
    promise: ClassVar[Promise] = Promise.CLOSE

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for scope in edit.scopes(model):
            for node in scope:
                if node.domain == "" and node.op_type in _LINEAR:
                    modified |= self._fold(scope, node)
        return ir.passes.PassResult(model, modified)

    def _fold(self, scope: edit.Scope, node: ir.Node) -> bool:
        linear = Linear.of(node)
        if linear is None:
            return False
        chain = list(_affine_chain(node, linear))
        if node.op_type == "MatMul":  # it has no bias: what only shifts stays behind it
            while chain and not chain[-1].scales:
                chain.pop()
        if not chain:
            return False
        if (reason := linear.refuses()) is not None:
            self.decline(node.name or node.outputs[0].name or "", reason)
            return False
        a, b = np.ones(linear.channels), linear.bias
        with np.errstate(all="ignore"):
            for step in chain:
                a, b = a * step.a, b * step.a + step.b
            weight = (linear.weight.astype(np.float64) * linear.along_channels(a)).astype(linear.weight.dtype)
            bias = b.astype(linear.weight.dtype)
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            self.decline(node.name or node.outputs[0].name or "", "the folded weight is not finite")
            return False
        last = chain[-1].node
        _take_place(node.outputs[0], of=last.outputs[0])
        for step in reversed(chain):
            edit.remove_node(step.node)
        set_input(scope, node, 1, weight)
        if node.op_type == "MatMul":
            if bias.any():
                _append_add(scope, node, bias)
        elif bias.any() or linear.has_bias:
            set_input(scope, node, 2, bias)
            if node.op_type == "Gemm":
                node.attributes.pop("beta", None)
        return True


def _affine_chain(node: ir.Node, linear: Linear) -> Iterator[Affine]:
    """The nodes after ``node``, each the only reader of the one before, that scale or shift its channels."""
    while True:
        output = node.outputs[0]
        uses = tuple(output.uses())
        if len(uses) != 1 or output.is_graph_output() or uses[0].node.graph is not node.graph:
            return
        node, index = uses[0]
        step = affine_of(node, index, linear.outputs)
        if step is None:
            return
        yield step


def _append_add(scope: edit.Scope, node: ir.Node, bias: Array) -> None:
    """``node + bias`` in place of ``node``."""
    output = node.outputs[0]
    constant = edit.add_constant(scope, bias, f"{output.name}_bias", before=node)
    add = ir.node("Add", [output, constant], name=f"{node.name or output.name}_bias")
    add.outputs[0].name = edit.unique_name(scope, f"{output.name}_biased")
    add.outputs[0].type, add.outputs[0].shape = output.type, output.shape
    scope.insert_after(node, add)
    _take_place(add.outputs[0], of=output)
    add.replace_input_with(0, output)


def _take_place(value: ir.Value, of: ir.Value) -> None:
    """Let ``value`` be read instead of another one, under its name: the two are equal, and names tell what is."""
    name = of.name
    edit.replace_uses(of, value)
    if value.name != name:
        of.name, value.name = value.name, name


_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
