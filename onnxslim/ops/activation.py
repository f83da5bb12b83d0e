"""Activation functions."""

from __future__ import annotations

from typing import Any

from onnxslim._ir import ir
from onnxslim.ops import activation_gradient
from onnxslim.ops.attributes import has, int_of, opset_of
from onnxslim.ops.coupling import Axes, same_axes
from onnxslim.ops.sizes import broadcast_bytes, total_bytes
from onnxslim.ops.spec import Facts, OpSpec, QuantRole, first_input

__all__ = ["SPECS", "is_softmax", "softmax_axis"]


def _pointwise(op_type: str, **facts: Any) -> OpSpec:
    rule = activation_gradient.RULES.get(op_type)
    return OpSpec(op_type=op_type, elementwise=True, output_bytes=broadcast_bytes, vjp=rule, **facts)


def _along_axis(op_type: str, **facts: Any) -> OpSpec:
    rule = activation_gradient.RULES.get(op_type)
    return OpSpec(op_type=op_type, output_bytes=total_bytes, couple=_normalised, vjp=rule, **facts)


def _dropout_is_noop(node: ir.Node, facts: Facts) -> int | None:
    """At inference, with an unread mask.  Spec: https://onnx.ai/onnx/operators/onnx__Dropout.html

    Operator sets 7 and 10 know inference only, older ones decide by ``is_test``, newer ones by an input.
    """
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        training = facts.constant(node.inputs[2])
        return 0 if training is not None and not training.any() else None
    if has(node, "is_test"):
        return 0 if int_of(node, "is_test", 0) else None
    return 0 if (opset_of(node) or 0) >= 7 else None


def is_softmax(node: ir.Node) -> bool:
    """Whether a node makes probabilities, or their logarithms, of scores."""
    return node.op_type in ("Softmax", "LogSoftmax") and node.domain in ("", "ai.onnx")


def softmax_axis(node: ir.Node) -> int:
    """The axis along which a softmax sums up to 1 (before operator set 13: the first of several)."""
    return int_of(node, "axis", -1 if (opset_of(node) or 13) >= 13 else 1)


def _normalised(node: ir.Node, axes: Axes) -> None:
    """Softmax and its kin: one axis, or all from it on before operator set 13."""
    data = node.inputs[0]
    assert data is not None
    rank, new = len(axes.dims(data)), (opset_of(node) or 13) >= 13
    axis = int_of(node, "axis", -1 if new else 1) % max(rank, 1)
    same_axes(node, axes)
    for each in (axis,) if new else range(axis, rank):
        axes.pin(axes.of(data, each), f"{node.op_type} normalises along it")


SPECS = (
    _pointwise("Relu", homogeneous=first_input, quant=QuantRole()),
    _pointwise("Sigmoid", quant=QuantRole(kernel="QLinearSigmoid")),
    _pointwise("LeakyRelu", homogeneous=first_input, quant=QuantRole(kernel="QLinearLeakyRelu")),
    _pointwise("PRelu", homogeneous=first_input, quant=QuantRole()),
    *(_pointwise(name, quant=QuantRole()) for name in (
        "Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Selu", "Shrink", "Softplus",
        "Softsign", "Swish", "Tanh", "ThresholdedRelu",
    )),
    OpSpec(op_type="SwiGLU", output_bytes=total_bytes),
    _along_axis("Softmax", quant=QuantRole(kernel="QLinearSoftmax")),
    _along_axis("LogSoftmax"),
    _along_axis("Hardmax"),
    OpSpec(op_type="Dropout", vjp=activation_gradient.RULES["Dropout"], couple=same_axes, deterministic=False,
           identity_input=_dropout_is_noop, output_bytes=total_bytes),
)  # fmt: skip
