"""Gradients through rounding: it passes straight where nothing is clipped, scales are learned as steps.

The gradient of an integer tensor is that by its real number, a float tensor.
Source: Esser et al., Learned Step Size Quantization, 2020, https://arxiv.org/abs/1902.08153
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp
from onnxslim.ops.attributes import int_of
from onnxslim.ops.terms import Dim, Term

__all__ = ["RULES"]


def _along(tape: Tape, term: Term, rank: int) -> Term:
    """A scale or zero point, one or one for each index of an axis, ready to be broadcast."""
    dims = tape.dims(term)
    if len(dims) == 0 or dims == (1,):
        return term
    if len(dims) != 1:
        raise Undifferentiable("a scale for each block")
    axis = int_of(tape.node, "axis", 1) % rank
    return term.unsqueeze(range(1, rank - axis)) if axis < rank - 1 else term


def _to_scale(tape: Tape, gradient: Term, dims: tuple[Dim, ...], scale: Term) -> Term:
    """Summed over all that share a scale."""
    own = tape.dims(scale)
    rank = len(dims)
    if len(own) == 0 or own == (1,):
        total = gradient.sum(range(rank))
        return total.reshape([1]) if own else total
    axis = int_of(tape.node, "axis", 1) % rank
    return gradient.sum([each for each in range(rank) if each != axis])


def _limits(tape: Tape, dtype: ir.DataType) -> tuple[float, float]:
    if not dtype.is_integer():
        raise Undifferentiable(f"rounding to {dtype.name}")
    return float(dtype.min), float(dtype.max)


def _quantize(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """``clip(round(x / scale) + zero)``; spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html"""
    x, dy = tape.x(), tape.dy()
    dims = tape.dims(x)
    scale = _along(tape, tape.x(1), len(dims))
    low, high = _limits(tape, tape.y().dtype)
    steps = x / scale
    if tape.has(2):
        steps = steps + _along(tape, tape.x(2), len(dims)).cast(x.dtype)
    inside = (steps >= low).both(steps <= high)
    passed = (dy / scale).where(inside)
    found = {0: passed}
    if tape.wants(1):
        found[1] = _to_scale(tape, -(passed * (x / scale)), dims, tape.x(1))
    return found


def _dequantize(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """``(x - zero) * scale``."""
    x, dy = tape.x(), tape.dy()
    dims = tape.dims(x)
    scale, found = _along(tape, tape.x(1), len(dims)), {}
    if tape.wants(0):
        found[0] = dy * scale
    if tape.wants(1):
        steps = x.cast(dy.dtype)
        if tape.has(2):
            steps = steps - _along(tape, tape.x(2), len(dims)).cast(dy.dtype)
        found[1] = _to_scale(tape, dy * steps, dims, tape.x(1))
    return found


RULES: Mapping[str, Vjp] = MappingProxyType({"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize})
