"""Gradients of reductions: what was summed up gets the sum's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp, flat
from onnxslim.ops.attributes import int_of, ints_of
from onnxslim.ops.terms import Term, integers

__all__ = ["RULES"]


def _axes(node: ir.Node, tape: Tape) -> list[int]:
    """The axes that are gone, counted from the front."""
    rank = len(tape.dims(tape.x()))
    axes = ints_of(node, "axes")
    if axes is None and tape.has(1):
        content = tape.content(1)
        if content is None:
            raise Undifferentiable("its axes are not constant")
        axes = tuple(int(axis) for axis in content.ravel())
    if not axes:
        return [] if int_of(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def _reduced(partial: Callable[[Term, Term, Term, list[int]], Term]) -> Vjp:
    """``(x, y, dy, axes) -> dx``; ``y`` and ``dy`` with the reduced axes as axes of size 1."""

    def rule(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
        if not tape.wants(0):
            return {}
        axes, x, y, dy = _axes(node, tape), tape.x(), tape.y(), tape.dy()
        if not int_of(node, "keepdims", 1):
            y, dy = y.unsqueeze(axes), dy.unsqueeze(axes)
        return {0: partial(x, y, dy, axes)}

    return rule


def _mean(x: Term, y: Term, dy: Term, axes: list[int]) -> Term:
    dims = x.dims or ()
    count, known = 1, True
    for axis in axes:
        size = dims[axis]
        known &= isinstance(size, int)
        count *= size if isinstance(size, int) else 1
    if known:
        return (dy * (1 / max(count, 1))).expand(x.shape())
    sizes = x.shape().then("Gather", integers(x, axes), axis=0).then("ReduceProd", keepdims=0)
    return (dy / sizes.cast(dy.dtype)).expand(x.shape())


def _extreme(x: Term, y: Term, dy: Term, axes: list[int]) -> Term:
    """Equal extremes share."""
    chosen = x.equals(y).cast(dy.dtype)
    return chosen * (dy / chosen.sum(axes, keep=True))


def _length(x: Term, y: Term, dy: Term, axes: list[int]) -> Term:
    """Of a vector of zeros, whose length has no slope, 0."""
    zero = y.equals(0.0)
    return x * zero.choose(0.0, dy / zero.choose(1.0, y))


def _product(x: Term, y: Term, dy: Term, axes: list[int]) -> Term:
    """The product of the others, where a factor is zero too."""
    zero = x.equals(0.0)
    count = zero.cast(x.dtype).sum(axes, keep=True)
    others = zero.choose(1.0, x).then("ReduceProd", integers(x, axes), keepdims=1, noop_with_empty_axes=1)
    alone = zero.cast(x.dtype) * count.equals(1.0).cast(x.dtype)
    none = count.equals(0.0).cast(x.dtype)
    return dy * others * (none / zero.choose(1.0, x) + alone)


def _cum_sum(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Every element is in all sums from it on."""
    if not tape.wants(0):
        return {}
    exclusive, backwards = int_of(node, "exclusive", 0), int_of(node, "reverse", 0)
    return {0: tape.dy().then("CumSum", tape.x(1), exclusive=exclusive, reverse=1 - backwards)}


RULES: Mapping[str, Vjp] = MappingProxyType(
    {
        "ReduceSum": _reduced(lambda x, y, dy, axes: dy.expand(x.shape())),
        "ReduceMean": _reduced(_mean),
        "ReduceMax": _reduced(_extreme),
        "ReduceMin": _reduced(_extreme),
        "ReduceL1": _reduced(lambda x, y, dy, axes: x.then("Sign") * dy),
        "ReduceL2": _reduced(_length),
        "ReduceSumSquare": _reduced(lambda x, y, dy, axes: x * (dy * 2.0)),
        "ReduceLogSum": _reduced(lambda x, y, dy, axes: (dy * (-y).then("Exp")).expand(x.shape())),
        "ReduceLogSumExp": _reduced(lambda x, y, dy, axes: (x - y).then("Exp") * dy),
        "ReduceProd": _reduced(_product),
        "CumSum": _cum_sum,
        "ArgMax": flat,
        "ArgMin": flat,
    }
)
