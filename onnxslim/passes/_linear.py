"""Nodes that multiply with a constant weight, and what scales or shifts their channels before or behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.model import edit

__all__ = ["Affine", "Array", "Channels", "Linear", "affine_of", "set_input"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Channels:
    """Where a value has its channels: ``count`` of them on its last axis, or on axis 1.

    ``rank`` is the number of its axes, or where they are the last ones a lower bound.
    """

    count: int
    rank: int
    last: bool


@dataclass(frozen=True)
class Affine:
    """``y = a * x + b`` with float64 factors, one per channel or a single one."""

    node: ir.Node
    a: Array
    b: Array
    scales: bool


def affine_of(node: ir.Node, index: int, channels: Channels) -> Affine | None:
    """What ``node`` does to the channels of its input ``index``, if that is to scale and shift them."""
    if node.domain != "":
        return None
    if node.op_type == "BatchNormalization":
        return _batch_norm(node, channels) if index == 0 else None
    return _arithmetic(node, index, channels)


@dataclass(frozen=True)
class Linear:
    """A node that maps channels linearly with a constant weight; bias in float64, one per output channel."""

    node: ir.Node
    value: ir.Value
    weight: Array
    bias: Array
    has_bias: bool
    channels: int

    @staticmethod
    def of(node: ir.Node) -> Linear | None:
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
        return Linear(node, value, weight, bias, source is not None, channels)

    @property
    def outputs(self) -> Channels:
        """Of the result."""
        return self._channels(self.channels)

    @property
    def inputs(self) -> Channels:
        """Of what is multiplied, by Conv or Gemm."""
        if self.node.op_type == "Conv":
            return self._channels(self.weight.shape[1] * self.node.attributes.get_int("group", 1))
        return self._channels(self.weight.shape[1 - _channel_axis(self.node)])

    def _channels(self, count: int) -> Channels:
        if self.node.op_type == "MatMul":
            return Channels(count, _rank(self.node.inputs[0]) or 1, last=True)
        return Channels(count, self.weight.ndim, self.node.op_type == "Gemm")

    def along_channels(self, factors: Array) -> Array:
        """``factors``, one per output channel, shaped to be multiplied with the weight."""
        weight, axis = self.weight, _channel_axis(self.node)
        if self.node.op_type != "ConvTranspose":
            return factors.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        # Input channels come group by group, and each group has its own run of output channels.
        groups = self.channels // weight.shape[1]
        rows = np.repeat(factors.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))

    def times_inputs(self, factors: Array) -> Array:
        """The weight times one factor per input channel, or a single one (Conv and Gemm)."""
        weight = self.weight.astype(np.float64)
        factors = np.broadcast_to(factors, self.inputs.count)
        if self.node.op_type != "Conv":
            return np.asarray(weight * (factors if _channel_axis(self.node) == 0 else factors[:, None]))
        # Each group of output channels reads its own run of input channels.
        rows = factors.reshape(-1, weight.shape[1])
        rows = np.repeat(rows, weight.shape[0] // len(rows), axis=0)
        return np.asarray(weight * rows.reshape(*rows.shape, *[1] * (weight.ndim - 2)))

    def sums(self, weight: Array) -> Array:
        """Per output channel, over all else (Conv and Gemm)."""
        axis = _channel_axis(self.node)
        return np.asarray(weight.sum(axis=tuple(i for i in range(weight.ndim) if i != axis)))

    def refuses(self) -> str | None:
        if self.weight.dtype.name in _SHORT_FLOATS:
            return f"rounding a scaled weight to {self.weight.dtype} costs more than the promise allows"
        if len(self.value.uses()) > 1 or self.value.is_graph_output():
            return "other nodes read its weight too, and a second copy would make the file larger"
        return None


def _batch_norm(node: ir.Node, channels: Channels) -> Affine | None:
    """Inference only: training mode and the forms of opset < 7 return other outputs or other values."""
    if any(value.name for value in node.outputs[1:]) or node.attributes.get_int("training_mode", 0) != 0:
        return None
    if not {"is_test", "consumed_inputs", "spatial"}.isdisjoint(node.attributes):
        return None
    if channels.last and channels.rank != 2:
        return None  # its channels lie on axis 1, ours on the last
    parameters = [edit.constant_value(value) for value in node.inputs[1:5]]
    if any(p is None or p.shape != (channels.count,) for p in parameters):
        return None
    scale, bias, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    with np.errstate(all="ignore"):
        a = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return Affine(node, a, bias - mean * a, True)


def _arithmetic(node: ir.Node, index: int, channels: Channels) -> Affine | None:
    if node.op_type not in _ARITHMETIC or len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    if "axis" in node.attributes or "broadcast" in node.attributes:  # opset < 7
        return None
    constant = edit.constant_value(node.inputs[1 - index])
    if constant is None or (factors := _per_channel(constant, channels)) is None:
        return None
    zero, one = np.zeros(1), np.ones(1)
    with np.errstate(all="ignore"):
        match node.op_type, index:
            case "Mul", _:
                return Affine(node, factors, zero, True)
            case "Div", 0:
                return Affine(node, 1 / factors, zero, True)
            case "Add", _:
                return Affine(node, one, factors, False)
            case "Sub", 0:
                return Affine(node, one, -factors, False)
            case "Sub", _:
                return Affine(node, -one, factors, True)
    return None


def _per_channel(constant: Array, channels: Channels) -> Array | None:
    """A constant that is broadcast to one factor per channel (or one for all), as float64; else None."""
    if constant.ndim > max(channels.rank, 1):  # it would add dimensions
        return None
    if constant.size == 1:
        return constant.astype(np.float64).reshape(1)
    axis = constant.ndim - 1 if channels.last else constant.ndim - channels.rank + 1
    if axis < 0 or constant.shape[axis] != constant.size or constant.size != channels.count:
        return None
    return constant.astype(np.float64).reshape(-1)


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def _channel_axis(node: ir.Node) -> int:
    """The axis of the weight that runs over the output channels (of one group, for ConvTranspose)."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def set_input(scope: edit.Scope, node: ir.Node, index: int, content: Array) -> None:
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    own = old is not None and old.is_initializer() and not old.is_graph_input() and not old.is_graph_output()
    if old is not None and own and len(old.uses()) == 1:
        edit.replace_initializer(old, content)
        return
    hint = str(old.name) if old is not None else f"{node.outputs[0].name}_bias"
    node.replace_input_with(index, edit.add_constant(scope, content, hint, before=node))


_ARITHMETIC = frozenset({"Mul", "Div", "Add", "Sub"})
_SHORT_FLOATS = frozenset({"float16", "bfloat16"})
_FLOATS = frozenset({"float32", "float64"}) | _SHORT_FLOATS
