"""Operators that change the element type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops import arithmetic_gradient
from onnxslim.ops.attributes import int_of
from onnxslim.ops.movement import given
from onnxslim.ops.sizes import broadcast_bytes
from onnxslim.ops.spec import Array, Declined, Facts, OpSpec

__all__ = ["SPECS"]

Inputs = Sequence[Array | None]
_PLAIN = frozenset(np.dtype(t) for t in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"))
_HALF, _SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def cast(data: Array, dtype: np.dtype) -> Array:
    """What a C++ ``static_cast`` makes of every element, where the standard defines it."""
    source = data.dtype
    if source == dtype:
        return data
    if not {source, dtype} <= _PLAIN and not (
        _HALF in (source, dtype) and {source, dtype} <= {_HALF, _SINGLE}
    ):
        raise Declined(f"a cast from {source} to {dtype}")
    if source.kind == "f":
        if dtype.kind == "f" and np.isnan(data).any():
            raise Declined("NaN, whose payload may change")
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            whole = np.trunc(data.astype(np.float64))
            if (
                not (whole >= float(limits.min)).all()
                or not (whole < float(limits.max) + (limits.bits < 64)).all()
            ):
                raise Declined("floats beyond the integers' range")
    with np.errstate(over="ignore"):
        return data.astype(dtype)


def _cast(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    """https://onnx.ai/onnx/operators/onnx__Cast.html"""
    to = ir.DataType(int_of(node, "to", 0))
    if to == ir.DataType.STRING or given(inputs, 0).dtype == np.object_:
        raise Declined("a cast of strings")
    return [cast(given(inputs, 0), to.numpy())]


def _cast_like(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    return [cast(given(inputs, 0), given(inputs, 1).dtype)]


def _target(node: ir.Node) -> ir.DataType | None:
    attribute = node.attributes.get("to")
    if attribute is None or attribute.type != ir.AttributeType.INT or attribute.is_ref():
        return None
    return ir.DataType(attribute.as_int())


def _cast_is_noop(node: ir.Node, facts: Facts) -> int | None:
    source = None if node.inputs[0] is None else facts.dtype(node.inputs[0])
    return 0 if source is not None and source == _target(node) else None


def _cast_like_is_noop(node: ir.Node, facts: Facts) -> int | None:
    one, other = (None if value is None else facts.dtype(value) for value in node.inputs[:2])
    return 0 if one is not None and one == other else None


SPECS = (
    OpSpec(op_type="Cast", vjp=arithmetic_gradient.RULES["Cast"],
           numpy=_cast, elementwise=True, casts=True, output_bytes=broadcast_bytes,
           identity_input=_cast_is_noop),
    OpSpec(op_type="CastLike", vjp=arithmetic_gradient.RULES["CastLike"],
           numpy=_cast_like, elementwise=True, casts=True, output_bytes=broadcast_bytes,
           identity_input=_cast_like_is_noop),
    OpSpec(op_type="BitCast", output_bytes=broadcast_bytes),
)  # fmt: skip
