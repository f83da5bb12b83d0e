"""Arithmetic, element by element on broadcast inputs.

The evaluators promise the runtime's bits: integers wrap as in C++, floats are the operations that IEEE 754
rounds correctly.  Whatever would be undefined in C++ (or would kill the process) is declined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops import arithmetic_gradient
from onnxslim.ops.attributes import has, int_of
from onnxslim.ops.movement import given
from onnxslim.ops.noop import neutral, one_input
from onnxslim.ops.sizes import broadcast_bytes
from onnxslim.ops.spec import Array, Declined, OpSpec, QuantRole, every_input, first_input, first_variable

__all__ = ["SPECS", "exact"]

Inputs = Sequence[Array | None]
Evaluator = Callable[[ir.Node, Inputs], Sequence[Array]]

INTEGERS = (np.int32, np.int64)
FLOATS = (np.float32, np.float64)
NUMBERS = (*INTEGERS, *FLOATS)


def exact(function: Callable[..., Any], dtypes: Sequence[Any], arity: int) -> Evaluator:
    """An evaluator for ``arity`` inputs of one of these dtypes; declines NaN results for their payload."""

    def evaluate(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
        arrays = [given(inputs, i) for i in range(arity)]
        dtype = arrays[0].dtype
        if len(inputs) != arity or dtype not in dtypes or any(array.dtype != dtype for array in arrays):
            raise Declined("not certain for these types")
        if has(node, "broadcast", "axis", "consumed_inputs"):
            raise Declined("broadcasting as in operator sets before 7")
        result = np.asarray(function(*arrays))
        if result.dtype.kind == "f" and np.isnan(result).any():
            raise Declined("NaN")
        return [result]

    return evaluate


def _divide(a: Array, b: Array) -> Array:
    """Division that truncates towards zero for integers; ``x / 0`` and ``min / -1`` kill the runtime."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if (b == 0).any() or ((b == -1).any() and (a == np.iinfo(a.dtype).min).any()):
        raise Declined("an undefined division")
    return np.asarray((a - np.fmod(a, b)) // b)


def _mod(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    if int_of(node, "fmod", 0):
        raise Declined("the runtime computes it in floating point")
    return exact(_floor_mod, INTEGERS, 2)(node, inputs)


def _floor_mod(a: Array, b: Array) -> Array:
    if (b == 0).any() or (b == -1).any():
        raise Declined("an undefined remainder")
    return np.asarray(np.mod(a, b))


def _extreme(choose: Callable[[Array, Array], Array]) -> Evaluator:
    """Max or Min of any number of integers; for floats the runtime's choice between zeros is its own."""

    def evaluate(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
        result = given(inputs, 0)
        for index in range(1, len(inputs)):
            [result] = exact(choose, INTEGERS, 2)(node, [result, given(inputs, index)])
        return [result]

    return evaluate


def _clip(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    result = given(inputs, 0)
    if has(node, "min", "max") or result.dtype not in INTEGERS:
        raise Declined("a Clip of floats")
    low = inputs[1] if len(inputs) > 1 else None
    high = inputs[2] if len(inputs) > 2 else None
    result = result if low is None else np.maximum(result, low)
    return [result if high is None else np.minimum(result, high)]


def _binary(op_type: str, function: Callable[..., Any], dtypes: Sequence[Any], **facts: Any) -> OpSpec:
    return _plain(op_type, numpy=exact(function, dtypes, 2), **facts)


def _unary(op_type: str, function: Callable[..., Any], dtypes: Sequence[Any], **facts: Any) -> OpSpec:
    return _plain(op_type, numpy=exact(function, dtypes, 1), **facts)


def _plain(op_type: str, **facts: Any) -> OpSpec:
    rule = arithmetic_gradient.RULES.get(op_type)
    return OpSpec(op_type=op_type, elementwise=True, output_bytes=broadcast_bytes, vjp=rule, **facts)


SPECS = (
    _binary("Add", np.add, NUMBERS, identity_input=neutral(0, minus_zero=True),
            homogeneous=every_input, quant=QuantRole(inputs=(0, 1), kernel="QLinearAdd")),
    _binary("Sub", np.subtract, NUMBERS, identity_input=neutral(0, right_only=True),
            homogeneous=every_input, quant=QuantRole(inputs=(0, 1))),
    _binary("Mul", np.multiply, NUMBERS, identity_input=neutral(1),
            homogeneous=first_variable, quant=QuantRole(inputs=(0, 1), kernel="QLinearMul")),
    _binary("Div", _divide, NUMBERS, identity_input=neutral(1, right_only=True),
            homogeneous=first_input, quant=QuantRole(inputs=(0, 1))),
    _plain("Mod", numpy=_mod),
    _plain("Pow"),
    _plain("Max", numpy=_extreme(np.maximum), identity_input=one_input, homogeneous=every_input),
    _plain("Min", numpy=_extreme(np.minimum), identity_input=one_input, homogeneous=every_input),
    _plain("Sum", identity_input=one_input, homogeneous=every_input),
    _plain("Mean", identity_input=one_input, homogeneous=every_input),
    _plain("Clip", numpy=_clip),
    _unary("Neg", np.negative, NUMBERS, homogeneous=first_input),
    _unary("Abs", np.abs, NUMBERS, homogeneous=first_input),
    _unary("Floor", np.floor, FLOATS),
    _unary("Ceil", np.ceil, FLOATS),
    _unary("Round", np.rint, FLOATS),
    _unary("Sqrt", np.sqrt, FLOATS),
    _unary("Sign", np.sign, INTEGERS),
    *(_plain(name) for name in (
        "Reciprocal", "Exp", "Log", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh",
        "Asinh", "Acosh", "Atanh",
    )),
)  # fmt: skip
