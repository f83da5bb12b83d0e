"""Comparisons, logic and bits, element by element; Where chooses by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops import arithmetic_gradient
from onnxslim.ops.adjoint import flat
from onnxslim.ops.arithmetic import FLOATS, INTEGERS, exact
from onnxslim.ops.attributes import text_of
from onnxslim.ops.movement import given
from onnxslim.ops.noop import neutral, same_dims
from onnxslim.ops.sizes import broadcast_bytes
from onnxslim.ops.spec import Array, Declined, Facts, OpSpec, QuantRole

__all__ = ["SPECS"]

Inputs = Sequence[Array | None]
_BOOL = (np.bool_,)
_BITS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)


def _where(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    condition, yes, no = (given(inputs, i) for i in range(3))
    if condition.dtype != np.bool_ or yes.dtype != no.dtype or yes.dtype == np.object_:
        raise Declined("not certain for these types")
    return [np.where(condition, yes, no)]


def _where_is_noop(node: ir.Node, facts: Facts) -> int | None:
    if node.inputs[0] is None:
        return None
    condition = facts.constant(node.inputs[0])
    if condition is None or condition.size == 0 or condition.dtype != np.bool_:
        return None
    index = 1 if condition.all() else 2 if not condition.any() else None
    return index if index is not None and same_dims(node.inputs[index], node.outputs[0], facts) else None


def _shift(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    """https://onnx.ai/onnx/operators/onnx__BitShift.html; by the width or more is undefined in C++."""
    data, by = given(inputs, 0), given(inputs, 1)
    if data.dtype not in (np.uint8, np.uint32, np.uint64) or by.dtype != data.dtype:
        raise Declined("not certain for these types")
    if (by >= data.dtype.itemsize * 8).any():
        raise Declined("an undefined shift")
    left = text_of(node, "direction", "") == "LEFT"
    return [np.left_shift(data, by) if left else np.right_shift(data, by)]


def _op(
    op_type: str, function: Callable[..., Any] | None, dtypes: Sequence[Any], arity: int = 2, **facts: Any
) -> OpSpec:
    evaluator = None if function is None else exact(function, dtypes, arity)
    return OpSpec(
        op_type=op_type, elementwise=True, output_bytes=broadcast_bytes, numpy=evaluator, vjp=flat, **facts
    )


_ORDERED = (*INTEGERS, *FLOATS)

SPECS = (
    _op("Equal", np.equal, (*_ORDERED, np.bool_)),
    _op("Greater", np.greater, _ORDERED),
    _op("GreaterOrEqual", np.greater_equal, _ORDERED),
    _op("Less", np.less, _ORDERED),
    _op("LessOrEqual", np.less_equal, _ORDERED),
    _op("And", np.logical_and, _BOOL, identity_input=neutral(True)),
    _op("Or", np.logical_or, _BOOL, identity_input=neutral(False)),
    _op("Xor", np.logical_xor, _BOOL, identity_input=neutral(False)),
    _op("Not", np.logical_not, _BOOL, arity=1),
    _op("BitwiseAnd", np.bitwise_and, _BITS),
    _op("BitwiseOr", np.bitwise_or, _BITS, identity_input=neutral(0)),
    _op("BitwiseXor", np.bitwise_xor, _BITS, identity_input=neutral(0)),
    _op("BitwiseNot", np.bitwise_not, _BITS, arity=1),
    OpSpec(op_type="BitShift", elementwise=True, vjp=flat, output_bytes=broadcast_bytes, numpy=_shift,
           identity_input=neutral(0, right_only=True)),
    _op("IsNaN", np.isnan, FLOATS, arity=1),
    _op("IsInf", None, FLOATS),
    OpSpec(op_type="Where", elementwise=True, vjp=arithmetic_gradient.RULES["Where"],
           output_bytes=broadcast_bytes, numpy=_where,
           moves=lambda node: (1, 2), identity_input=_where_is_noop,
           quant=QuantRole(inputs=(1, 2), kernel="QLinearWhere")),
)  # fmt: skip
