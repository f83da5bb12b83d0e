"""Gradients of activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp, flat, sum_to, unary
from onnxslim.ops.attributes import float_of, int_of, text_of
from onnxslim.ops.terms import Term

__all__ = ["RULES", "gelu_slope"]


def _shaped(partial: Callable[[ir.Node, Term, Term, Term], Term]) -> Vjp:
    """Of an elementwise operator with attributes: ``(node, x, y, dy) -> dx``."""
    return lambda node, tape: {0: partial(node, tape.x(), tape.y(), tape.dy())}


def _relu(x: Term, y: Term, dy: Term) -> Term:
    return dy.where(y > 0.0)


def _leaky(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    alpha = float_of(node, "alpha", 0.01)
    return dy * ((x >= 0.0).cast(x.dtype) * (1 - alpha) + alpha)


def _prelu(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    x, slope, dy = tape.x(0), tape.x(1), tape.dy()
    below, found = (x < 0.0).cast(x.dtype), {}
    if tape.wants(0):
        found[0] = dy * (below * (slope - 1.0) + 1.0)
    if tape.wants(1):
        found[1] = sum_to(tape, dy * x * below, tape.dims(x), slope)
    return found


def _hard_sigmoid(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    inside = (y > 0.0).both(y < 1.0)
    return (dy * float_of(node, "alpha", 0.2)).where(inside)


def _hard_swish(x: Term, y: Term, dy: Term) -> Term:
    """0 below -3, 1 above 3, ``x / 3 + 1 / 2`` in between."""
    inside = (x > -3.0).both(x < 3.0)
    return dy * ((x * (1 / 3) + 0.5).where(inside) + (x >= 3.0).cast(x.dtype))


def gelu_slope(x: Term, *, tanh: bool = False) -> Term:
    """The derivative of Gelu, exact or of its approximation by Tanh."""
    if tanh:
        factor, cubic = math.sqrt(2 / math.pi), 0.044715
        square = x * x
        t = (x * (square * (factor * cubic) + factor)).then("Tanh")
        inner = square * (3 * factor * cubic) + factor
        return (t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * inner
    below = (x * math.sqrt(0.5)).then("Erf") * 0.5 + 0.5
    return below + x * ((x * x * -0.5).then("Exp") * (1 / math.sqrt(2 * math.pi)))


def _gelu(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    return dy * gelu_slope(x, tanh=text_of(node, "approximate", "none") == "tanh")


def _pieces(x: Term, below: Term, above: float) -> Term:
    """One slope below zero, another above."""
    positive = (x > 0.0).cast(x.dtype)
    return below - positive * (below - above)


def _elu(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    return dy * _pieces(x, y + float_of(node, "alpha", 1.0), 1.0)


def _selu(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    """Defaults as in the standard, rounded to float there."""
    alpha = float_of(node, "alpha", 1.67326319217681884765625)
    gamma = float_of(node, "gamma", 1.05070102214813232421875)
    return dy * _pieces(x, y + alpha * gamma, gamma)


def _celu(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    alpha = float_of(node, "alpha", 1.0)
    return dy * _pieces(x, y * (1 / alpha) + 1.0, 1.0)


def _swish(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    alpha = float_of(node, "alpha", 1.0)
    s = (x * alpha if alpha != 1 else x).then("Sigmoid")
    return dy * (s + y * (1.0 - s) * alpha)


def _mish(x: Term, y: Term, dy: Term) -> Term:
    t = x.then("Softplus").then("Tanh")
    return dy * (t + x * (1.0 - t * t) * x.then("Sigmoid"))


def _softsign(x: Term, y: Term, dy: Term) -> Term:
    length = x.then("Abs") + 1.0
    return dy / (length * length)


def _thresholded(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    return dy.where(x > float_of(node, "alpha", 1.0))


def _shrink(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    return dy.where(x.then("Abs") > float_of(node, "lambd", 0.5))


def _axis(node: ir.Node) -> int:
    return int_of(node, "axis", -1)


def _softmax(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    weighted = dy * y
    return weighted - y * weighted.sum([_axis(node)], keep=True)


def _log_softmax(node: ir.Node, x: Term, y: Term, dy: Term) -> Term:
    return dy - y.then("Exp") * dy.sum([_axis(node)], keep=True)


def _dropout(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """At inference; the mask of a training run differs from the one that the loss has seen."""
    training = tape.content(2)
    if tape.has(2) and (training is None or training.any()):
        raise Undifferentiable("it is random")
    return {0: tape.dy()} if tape.reads() and tape.wants(0) else {}


_RULES: dict[str, Vjp] = {
    "Relu": unary(_relu),
    "LeakyRelu": _shaped(_leaky),
    "PRelu": _prelu,
    "Sigmoid": unary(lambda x, y, dy: dy * y * (1.0 - y)),
    "Tanh": unary(lambda x, y, dy: dy * (1.0 - y * y)),
    "HardSigmoid": _shaped(_hard_sigmoid),
    "HardSwish": unary(_hard_swish),
    "Gelu": _shaped(_gelu),
    "Elu": _shaped(_elu),
    "Selu": _shaped(_selu),
    "Celu": _shaped(_celu),
    "Softplus": unary(lambda x, y, dy: dy * x.then("Sigmoid")),
    "Softsign": unary(_softsign),
    "Mish": unary(_mish),
    "Swish": _shaped(_swish),
    "ThresholdedRelu": _shaped(_thresholded),
    "Shrink": _shaped(_shrink),
    "Softmax": _shaped(_softmax),
    "LogSoftmax": _shaped(_log_softmax),
    "Hardmax": flat,
    "Dropout": _dropout,
}

RULES = MappingProxyType(_RULES)
