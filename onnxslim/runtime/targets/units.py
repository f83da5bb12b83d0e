"""The parts of a graph that a target could execute as one integer kernel each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import QuantRole
from onnxslim.runtime.targets.target import Fusion, Target
from onnxslim.runtime.targets.work import Work, convolution, product

__all__ = ["Unit", "elements", "find_units", "is_shared"]

_UNKNOWN_DIM = 32  # a dimension that is only known at run time; only ratios of costs matter
_UNKNOWN_ELEMENTS = 1 << 14


@dataclass(frozen=True, eq=False)
class Unit:
    """A node, and the activation function that its kernel absorbs.

    Attributes:
        node: the operator.
        fusion: what the target makes of it.
        role: which inputs are activations, weight and bias.
        activations: the values that have to be quantized for it.
        absorbed: the node behind it that vanishes in the kernel.
        output: the result, behind ``absorbed``.
    """

    node: ir.Node
    fusion: Fusion
    role: QuantRole
    activations: tuple[ir.Value, ...]
    absorbed: ir.Node | None
    output: ir.Value

    @property
    def weight(self) -> ir.Value | None:
        """The constant weight, if the operator has one."""
        return None if self.role.weight is None else self.node.inputs[self.role.weight]

    def bias_use(self, shapes: Shapes) -> tuple[ir.Node, int] | None:
        """Where a constant bias with one number per channel is read: by the node, or by one behind it.

        Behind it only for matrices and where every dimension is known: onnxruntime makes one node of the two
        then, whose integer kernel takes an integer bias; else a float bias can be fused with what follows.
        """
        index = self.role.bias
        if index is not None:
            return (self.node, index) if _input(self.node, index) is not None else None
        users, shape = tuple(self.output.uses()), shapes.shape(self.output)
        if not self.fusion.biases or len(users) != 1 or self.output.is_graph_output() or self.weight is None:
            return None
        if shape is None or (len(shape) > 2 and not all(isinstance(dim, int) for dim in shape)):
            return None
        user, index = users[0]
        if user.op_type not in self.fusion.biases or user.domain or len(user.inputs) != 2:
            return None
        bias = edit.constant_value(user.inputs[1 - index])
        assert self.weight.shape is not None
        channels = self.weight.shape.numpy()[self.weight_axis]
        if bias is None or bias.dtype != np.float32 or bias.shape != (channels,):
            return None
        return user, 1 - index

    @property
    def weight_axis(self) -> int:
        """The axis of the weight's output channels, counted from the front."""
        assert self.weight is not None and self.weight.shape is not None
        return _channel_axis(self.node, self.role) % self.weight.shape.rank()

    def work(self, shapes: Shapes, block: int = 1) -> Work:
        """What there is to do, from the output's size and the weight's shape.

        Args:
            block: output channels that the target computes at once.
        """
        outputs = elements(self.output, shapes)
        if self.weight is None or self.weight.shape is None:
            return Work(output=outputs)
        extents = self.weight.shape.numpy()
        channels = extents[self.weight_axis]
        if self.weight.shape.rank() == 2:
            return product(outputs / channels, math.prod(extents) // channels, channels, block=block)
        return convolution(outputs / channels, extents[1], channels, math.prod(extents[2:]), block=block)


def elements(value: ir.Value, shapes: Shapes) -> float:
    """The number of elements, with a guess for what is unknown; an unknown first dimension counts as 1."""
    shape = shapes.shape(value)
    if shape is None:
        return _UNKNOWN_ELEMENTS
    return math.prod(
        dim if isinstance(dim, int) else (1 if axis == 0 and len(shape) > 1 else _UNKNOWN_DIM)
        for axis, dim in enumerate(shape)
    )


def is_shared(unit: Unit) -> bool:
    """Whether the weight is read in another way too, such as by the Gather of a tied embedding."""
    return unit.weight is not None and any(
        user.op_type != unit.node.op_type
        or index != unit.role.weight
        or _channel_axis(user, unit.role) != _channel_axis(unit.node, unit.role)
        for user, index in unit.weight.uses()
    )


@dataclass
class _Found:
    units: list[Unit] = field(default_factory=list)
    reasons: dict[ir.Node, str] = field(default_factory=dict)


def find_units(
    graph: ir.Graph, target: Target, refuse: Callable[[Unit], str | None] = lambda unit: None
) -> tuple[list[Unit], Mapping[ir.Node, str]]:
    """Every node that the target has an integer kernel for.

    Args:
        refuse: says why a unit may not be used, None when it may.

    Returns:
        The units in graph order, and why nodes with a constant weight are none.
    """
    found = _Found()
    for node in graph:
        spec = spec_of(node)
        fusion = target.fusion(node.op_type, depthwise=_is_depthwise(node)) if node.domain == "" else None
        role = spec.quant if spec is not None else None
        if role is None:
            continue
        if fusion is None:
            if role.weight is not None:
                found.reasons[node] = f"{target.name} has no integer kernel for {node.op_type} that pays"
            continue
        reason = _unfit(node, fusion, role)
        if reason is None:
            unit = _unit(node, fusion, role)
            reason = refuse(unit)
            if reason is None:
                found.units.append(unit)
        if reason is not None and role.weight is not None:
            found.reasons[node] = reason
    return found.units, found.reasons


def _unit(node: ir.Node, fusion: Fusion, role: QuantRole) -> Unit:
    output, absorbed = node.outputs[0], None
    users = tuple(output.uses())
    if len(users) == 1 and not output.is_graph_output():
        user, index = users[0]
        bounds = (value for value in user.inputs[1:] if value is not None)
        if (
            user.domain == ""
            and user.op_type in fusion.activations
            and index == 0
            and user.graph is node.graph
            and all(edit.constant_value(value) is not None for value in bounds)
        ):
            output, absorbed = user.outputs[0], user
    sources = (_input(node, index) for index in role.indices(node) if index != role.weight)
    activations = tuple(value for value in sources if value is not None)
    return Unit(node, fusion, role, activations, absorbed, output)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _unfit(node: ir.Node, fusion: Fusion, role: QuantRole) -> str | None:
    """Why the node cannot become the integer kernel whatever its place, None when it can."""
    for index in role.indices(node):
        if index == role.weight:
            continue
        value = _input(node, index)
        if value is None or edit.constant_value(value) is not None:
            return "an operand is constant or missing"
        if value.dtype not in (None, ir.DataType.FLOAT):
            return f"its type is {value.dtype}, not FLOAT"
    if role.weight is None:
        return None
    weight = edit.constant_value(_input(node, role.weight))
    if weight is None:
        return "its weight is not constant"
    if weight.dtype != np.float32 or weight.ndim < 2 or not weight.size or not np.isfinite(weight).all():
        return f"its weight is {weight.dtype} of rank {weight.ndim}, or not finite"
    if fusion.weight_rank is not None and weight.ndim != fusion.weight_rank:
        return f"its weight has rank {weight.ndim}"
    for name, value in fusion.attributes.items():
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.value != value:
            return f"{name}={attribute.value}: {fusion.kernel} pays at {value} only"
    bias = _input(node, role.bias) if role.bias is not None else None
    if bias is not None:
        content = edit.constant_value(bias)
        if content is None or content.shape != (weight.shape[_channel_axis(node, role)],):
            return "its bias is not one constant per channel"
    return None


def _is_depthwise(node: ir.Node) -> bool:
    """Whether a convolution has one filter for each channel."""
    group, weight = node.attributes.get("group"), _input(node, 1)
    shape = None if weight is None else weight.shape
    return group is not None and group.value != 1 and shape is not None and shape[:2] == (group.value, 1)


def _channel_axis(node: ir.Node, role: QuantRole) -> int:
    axis = role.weight_axis(node) if role.weight_axis is not None else None
    return 0 if axis is None else axis
