"""Gradients of what works element by element."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Vjp, flat, pointwise, sum_to, unary
from onnxslim.ops.terms import Term

__all__ = ["RULES"]


def _power(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """``x ** p``; the exponent may be of another type than the base."""
    x, y, dy = tape.x(0), tape.y(), tape.dy()
    exponent, found = tape.x(1).cast(x.dtype), {}
    content = tape.content(1)
    if tape.wants(0):
        if content is not None and (content == 2).all():
            slope = x * 2.0
        else:
            slope = exponent * x.then("Pow", exponent - 1.0)
        found[0] = sum_to(tape, dy * slope, tape.dims(y), x)
    if tape.wants(1) and tape.x(1).dtype.is_floating_point():
        positive = x > 0.0
        slope = positive.choose(y * positive.choose(x, 1.0).then("Log"), 0.0)
        found[1] = sum_to(tape, (dy * slope).cast(tape.x(1).dtype), tape.dims(y), tape.x(1))
    return found


def _extreme(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Max and Min: the first of those that are equal takes all."""
    y, dy, taken = tape.y(), tape.dy(), None
    found = {}
    for index in range(len(node.inputs)):
        x = tape.x(index)
        chosen = x.equals(y)
        free = chosen if taken is None else chosen.both(taken.then("Not"))
        taken = chosen if taken is None else taken.then("Or", chosen)
        if tape.wants(index):
            found[index] = sum_to(tape, dy.where(free), tape.dims(y), x)
    return found


def _sum(node: ir.Node, tape: Tape, *, mean: bool = False) -> Mapping[int, Term]:
    dy = tape.dy() * (1.0 / len(node.inputs)) if mean else tape.dy()
    dims = tape.dims(tape.y())
    return {index: sum_to(tape, dy, dims, tape.x(index)) for index in tape.wanted}


def _clip(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Inside of the bounds the gradient passes, outside it belongs to the bound."""
    x, dy, found = tape.x(), tape.dy(), {}
    below = x < tape.x(1) if tape.has(1) else None
    above = x > tape.x(2) if tape.has(2) else None
    if tape.wants(0):
        found[0] = dy.where(x.equals(tape.y()))
    for index, where in ((1, below), (2, above)):
        if where is not None and tape.wants(index):
            found[index] = sum_to(tape, dy.where(where), tape.dims(x), tape.x(index))
    return found


def _where(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    condition, dy, dims = tape.x(0), tape.dy(), tape.dims(tape.y())
    found = {}
    if tape.wants(1):
        found[1] = sum_to(tape, dy.where(condition), dims, tape.x(1))
    if tape.wants(2):
        found[2] = sum_to(tape, dy.where(condition.then("Not")), dims, tape.x(2))
    return found


def _cast(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Between floats; whatever goes through integers depends on its input in steps."""
    source = tape.x().dtype
    floats = source.is_floating_point() and tape.y().dtype.is_floating_point()
    return {0: tape.dy().cast(source)} if floats and tape.wants(0) else {}


def _root(x: Term, y: Term, dy: Term) -> Term:
    return dy * 0.5 / y


def _error(x: Term, y: Term, dy: Term) -> Term:
    return dy * ((-(x * x)).then("Exp") * (2 / math.sqrt(math.pi)))


def _remainder(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """``a - b * quotient``, whose quotient is constant between its steps."""
    a, b, y, dy = tape.x(0), tape.x(1), tape.y(), tape.dy()
    dims, found = tape.dims(y), {}
    if tape.wants(0):
        found[0] = sum_to(tape, dy, dims, a)
    if tape.wants(1):
        found[1] = sum_to(tape, dy * ((y - a) / b).then("Round"), dims, b)
    return found


def _slope(function: str) -> Vjp:
    return unary(lambda x, y, dy: dy * x.then(function))


def _sloped(x: Term, y: Term, dy: Term, sign: float, *, square: float, root: bool = False) -> Term:
    """``dy / (sign * x^2 + square)``, or its root."""
    inner = x * x * sign + square
    return dy / (inner.then("Sqrt") if root else inner)


_RULES: dict[str, Vjp] = {
    "Add": pointwise(lambda a, b, y, dy: dy, lambda a, b, y, dy: dy),
    "Sub": pointwise(lambda a, b, y, dy: dy, lambda a, b, y, dy: -dy),
    "Mul": pointwise(lambda a, b, y, dy: dy * b, lambda a, b, y, dy: dy * a),
    "Div": pointwise(lambda a, b, y, dy: dy / b, lambda a, b, y, dy: -(dy * y / b)),
    "Pow": _power,
    "Mod": _remainder,
    "Max": _extreme,
    "Min": _extreme,
    "Sum": _sum,
    "Mean": partial(_sum, mean=True),
    "Clip": _clip,
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast,
    "Neg": unary(lambda x, y, dy: -dy),
    "Abs": unary(lambda x, y, dy: dy * x.then("Sign")),
    "Sqrt": unary(_root),
    "Reciprocal": unary(lambda x, y, dy: -(dy * y * y)),
    "Exp": unary(lambda x, y, dy: dy * y),
    "Log": unary(lambda x, y, dy: dy / x),
    "Erf": unary(_error),
    "Sin": _slope("Cos"),
    "Cos": unary(lambda x, y, dy: -(dy * x.then("Sin"))),
    "Tan": unary(lambda x, y, dy: dy * (y * y + 1.0)),
    "Asin": unary(lambda x, y, dy: _sloped(x, y, dy, -1.0, square=1.0, root=True)),
    "Acos": unary(lambda x, y, dy: -_sloped(x, y, dy, -1.0, square=1.0, root=True)),
    "Atan": unary(lambda x, y, dy: _sloped(x, y, dy, 1.0, square=1.0)),
    "Sinh": _slope("Cosh"),
    "Cosh": _slope("Sinh"),
    "Asinh": unary(lambda x, y, dy: _sloped(x, y, dy, 1.0, square=1.0, root=True)),
    "Acosh": unary(lambda x, y, dy: _sloped(x, y, dy, 1.0, square=-1.0, root=True)),
    "Atanh": unary(lambda x, y, dy: _sloped(x, y, dy, -1.0, square=1.0)),
    **dict.fromkeys(
        (
            "Floor", "Ceil", "Round", "Sign", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
            "And", "Or", "Xor", "Not", "IsNaN", "IsInf", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
            "BitwiseNot",
        ),
        flat,
    ),
}  # fmt: skip

RULES = MappingProxyType(_RULES)
