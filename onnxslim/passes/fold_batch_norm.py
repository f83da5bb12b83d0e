"""Fold what scales and shifts channels into the weights of the node before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["FoldBatchNorm"]

Array = npt.NDArray[Any]


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
        linear = _Linear.of(node)
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
        _set_input(scope, node, 1, weight)
        if node.op_type == "MatMul":
            if bias.any():
                _append_add(scope, node, bias)
        elif bias.any() or linear.has_bias:
            _set_input(scope, node, 2, bias)
            if node.op_type == "Gemm":
                node.attributes.pop("beta", None)
        return True


@dataclass(frozen=True)
class _Linear:
    """A node that maps channels linearly with a constant weight; bias in float64, one per output channel."""

    node: ir.Node
    value: ir.Value
    weight: Array
    bias: Array
    has_bias: bool
    channels: int

    @staticmethod
    def of(node: ir.Node) -> _Linear | None:
        value = node.inputs[1] if len(node.inputs) > 1 else None
        weight = edit.constant_value(value)
        if value is None or weight is None or weight.dtype.name not in _FLOATS:
            return None
        if weight.ndim < 2 or weight.size == 0:
            return None
        if node.op_type == "MatMul" and weight.ndim != 2:
            return None
        groups = node.attributes.get_int("group", 1)
        channels = weight.shape[_channel_axis(node)] * (groups if node.op_type == "ConvTranspose" else 1)
        bias = np.zeros(channels)
        source = node.inputs[2] if len(node.inputs) > 2 else None
        if source is not None:
            constant = edit.constant_value(source)
            if constant is None or constant.shape not in {(), (1,), (channels,), (1, 1), (1, channels)}:
                return None
            beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
            bias = beta * np.broadcast_to(constant.astype(np.float64).reshape(-1), channels)
        return _Linear(node, value, weight, bias, source is not None, channels)

    def along_channels(self, factors: Array) -> Array:
        """``factors``, one per output channel, shaped to be multiplied with the weight."""
        weight, axis = self.weight, _channel_axis(self.node)
        if self.node.op_type != "ConvTranspose":
            return factors.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        # Input channels come group by group, and each group has its own run of output channels.
        groups = self.channels // weight.shape[1]
        rows = np.repeat(factors.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))

    def refuses(self) -> str | None:
        if self.weight.dtype.name in _SHORT_FLOATS:
            return f"rounding a scaled weight to {self.weight.dtype} costs more than the promise allows"
        if len(self.value.uses()) > 1 or self.value.is_graph_output():
            return "other nodes read its weight too, and a second copy would make the file larger"
        return None


@dataclass(frozen=True)
class _Affine:
    """``y = a * x + b`` with float64 factors, one per channel or a single one."""

    node: ir.Node
    a: Array
    b: Array
    scales: bool


def _affine_chain(node: ir.Node, linear: _Linear) -> Iterator[_Affine]:
    """The nodes after ``node``, each the only reader of the one before, that scale or shift its channels."""
    while True:
        output = node.outputs[0]
        uses = tuple(output.uses())
        if len(uses) != 1 or output.is_graph_output() or uses[0].node.graph is not node.graph:
            return
        node, index = uses[0]
        if node.domain != "":
            return
        if node.op_type == "BatchNormalization":
            step = _batch_norm(node, linear) if index == 0 else None
        else:
            step = _arithmetic(node, index, linear)
        if step is None:
            return
        yield step


def _batch_norm(node: ir.Node, linear: _Linear) -> _Affine | None:
    """Inference only: training mode and the forms of opset < 7 return other outputs or other values."""
    if any(value.name for value in node.outputs[1:]) or node.attributes.get_int("training_mode", 0) != 0:
        return None
    if not {"is_test", "consumed_inputs", "spatial"}.isdisjoint(node.attributes):
        return None
    if linear.node.op_type == "MatMul" and _rank(linear.node.inputs[0]) != 2:
        return None  # its channels lie on axis 1, ours on the last
    parameters = [edit.constant_value(value) for value in node.inputs[1:5]]
    if any(p is None or p.shape != (linear.channels,) for p in parameters):
        return None
    scale, bias, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    with np.errstate(all="ignore"):
        a = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return _Affine(node, a, bias - mean * a, True)


def _arithmetic(node: ir.Node, index: int, linear: _Linear) -> _Affine | None:
    if node.op_type not in _ARITHMETIC or len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    if "axis" in node.attributes or "broadcast" in node.attributes:  # opset < 7
        return None
    constant = edit.constant_value(node.inputs[1 - index])
    if constant is None or (factors := _per_channel(constant, linear)) is None:
        return None
    zero, one = np.zeros(1), np.ones(1)
    with np.errstate(all="ignore"):
        match node.op_type, index:
            case "Mul", _:
                return _Affine(node, factors, zero, True)
            case "Div", 0:
                return _Affine(node, 1 / factors, zero, True)
            case "Add", _:
                return _Affine(node, one, factors, False)
            case "Sub", 0:
                return _Affine(node, one, -factors, False)
            case "Sub", _:
                return _Affine(node, -one, factors, True)
    return None


def _per_channel(constant: Array, linear: _Linear) -> Array | None:
    """A constant that is broadcast to one factor per channel (or one for all), as float64; else None."""
    node = linear.node
    if constant.size == 1:
        # More dimensions than the output's would add some to it.
        return constant.astype(np.float64).reshape(1) if constant.ndim <= _least_rank(node, linear) else None
    if constant.size != linear.channels:
        return None
    last = node.op_type in ("Gemm", "MatMul")
    rank = _least_rank(node, linear)
    axis = constant.ndim - 1 if last else constant.ndim - rank + 1
    if constant.ndim > max(rank, 1) or axis < 0 or constant.shape[axis] != linear.channels:
        return None
    return constant.astype(np.float64).reshape(-1)


def _least_rank(node: ir.Node, linear: _Linear) -> int:
    """The rank of the output, or a lower bound: a MatMul's other operand may be a vector."""
    if node.op_type != "MatMul":
        return 2 if node.op_type == "Gemm" else linear.weight.ndim
    return _rank(node.inputs[0]) or 1


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def _channel_axis(node: ir.Node) -> int:
    """The axis of the weight that runs over the output channels (of one group, for ConvTranspose)."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def _set_input(scope: edit.Scope, node: ir.Node, index: int, content: Array) -> None:
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    own = old is not None and old.is_initializer() and not old.is_graph_input() and not old.is_graph_output()
    if old is not None and own and len(old.uses()) == 1:
        edit.replace_initializer(old, content)
        return
    hint = str(old.name) if old is not None else f"{node.outputs[0].name}_bias"
    node.replace_input_with(index, edit.add_constant(scope, content, hint, before=node))


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
_ARITHMETIC = frozenset({"Mul", "Div", "Add", "Sub"})
_SHORT_FLOATS = frozenset({"float16", "bfloat16"})
_FLOATS = frozenset({"float32", "float64"}) | _SHORT_FLOATS
