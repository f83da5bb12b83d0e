"""How an operator hands a gradient back: its vector-Jacobian product, in standard operators.

``OpSpec.vjp`` is called with a node and a :class:`Tape` and answers with the gradients of the inputs that are
wanted, by index.  An input that it leaves out gets none: the loss does not depend on it, or only in steps.  A
rule raises :class:`Undifferentiable` where it cannot be exact; nobody guesses.

``OpSpec.expand`` answers with the outputs instead, computed by operators that have rules: the node goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.spec import Array
from onnxslim.ops.terms import Dim, Emitter, Term

__all__ = [
    "Expand",
    "Tape",
    "Undifferentiable",
    "Vjp",
    "flat",
    "like_shape",
    "pointwise",
    "sum_to",
    "unary",
]


class Undifferentiable(ValueError):  # noqa: N818 (an answer rather than an error)
    """There is no exact gradient through this node; the message says why."""


@dataclass(frozen=True)
class Tape:
    """What a rule sees of one node, and where it puts the nodes of the gradient.

    Attributes:
        node: the node.
        emitter: takes new nodes, and knows shapes, types and constants.
        upstream: the gradients of the outputs; None where the loss does not depend on one.
        wanted: the inputs whose gradient is asked for.
    """

    node: ir.Node
    emitter: Emitter
    upstream: Sequence[Term | None]
    wanted: frozenset[int]

    def wants(self, index: int) -> bool:
        """Whether the gradient of an input is asked for."""
        return index in self.wanted

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def x(self, index: int = 0) -> Term:
        """An input; it has to be there."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            raise Undifferentiable(f"input {index} is missing")
        return self._term(value)

    def y(self, index: int = 0) -> Term:
        """An output."""
        return self._term(self.node.outputs[index])

    def dy(self, index: int = 0) -> Term:
        """The gradient of an output; zeros where the loss does not depend on it."""
        term = self.upstream[index] if index < len(self.upstream) else None
        if term is not None:
            return term
        output = self.y(index)
        return output.like(0.0).expand(output.shape())

    def reads(self, index: int = 0) -> bool:
        """Whether the loss depends on an output."""
        return index < len(self.upstream) and self.upstream[index] is not None

    def content(self, index: int) -> Array | None:
        """The content of an input that is constant; None where it is absent or not."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return None if value is None else self.emitter.constant(value)

    def dims(self, term: Term) -> tuple[Dim, ...]:
        """Dimensions of a value of known rank.

        Raises:
            Undifferentiable: nothing is known about its shape.
        """
        dims = term.dims
        if dims is None:
            raise Undifferentiable("a shape is not known")
        return dims

    def sizes(self, term: Term, start: int = 0) -> tuple[int, ...]:
        """Sizes of the axes from ``start`` on.

        Raises:
            Undifferentiable: one of them is not known.
        """
        dims = self.dims(term)[start:]
        sizes = tuple(d for d in dims if isinstance(d, int))
        if len(sizes) != len(dims):
            raise Undifferentiable("a size is not known; give the inputs a static shape")
        return sizes

    def further(self, index: int, dtype: ir.DataType) -> Term:
        """An optional output of the node, computed from now on."""
        if len(self.node.outputs) <= index:
            self.node.resize_outputs(index + 1)
        output = self.node.outputs[index]
        if not output.name:
            output.name = self.emitter.name()
        return Term(self.emitter, output, dtype)

    def _term(self, value: ir.Value) -> Term:
        dtype = self.emitter.dtype(value)
        if dtype is None:
            raise Undifferentiable("an element type is not known")
        return Term(self.emitter, value, dtype)


Vjp = Callable[[ir.Node, Tape], Mapping[int, Term]]
Expand = Callable[[ir.Node, Tape], Sequence[Term | None]]


def flat(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Of an operator whose output depends on its inputs in steps, or on their shapes alone: no gradient."""
    return {}


def like_shape(tape: Tape, gradient: Term, target: Term) -> Term:
    """A gradient brought back to the shape of what it belongs to."""
    dims = target.dims
    if dims is not None and sum(not isinstance(d, int) for d in dims) <= 1 and 0 not in dims:
        return gradient.reshape(d if isinstance(d, int) else -1 for d in dims)
    return gradient.reshape(target.shape())


def sum_to(tape: Tape, gradient: Term, dims: Sequence[Dim], target: Term) -> Term:
    """The adjoint of broadcasting: a gradient of shape ``dims``, summed to the shape of ``target``."""
    own = tape.dims(target)
    padded = (1,) * (len(dims) - len(own)) + own
    if all(a == b and a is not None for a, b in zip(padded, dims, strict=True)):
        return gradient if len(own) == len(dims) else like_shape(tape, gradient, target)
    if any(a != 1 and (a != b or a is None) for a, b in zip(padded, dims, strict=True)):
        return _sum_to_unknown(gradient, target)
    axes = [axis for axis, (a, b) in enumerate(zip(padded, dims, strict=True)) if a == 1 and b != 1]
    extra = len(dims) - len(own)
    if set(axes) == set(range(extra)):
        return gradient.sum(axes)
    summed = gradient.sum(axes, keep=True)
    return like_shape(tape, summed, target) if extra else summed


def _sum_to_unknown(gradient: Term, target: Term) -> Term:
    """The axes to sum over are found when the model runs."""
    whole, own = gradient.shape(), target.shape()
    ones = whole.constant(np.ones(1, np.int64)).expand(whole.shape() - own.shape())
    padded = ones.then("Concat", own, axis=0)
    differs = padded.equals(whole).then("Not").then("NonZero", dtype=ir.DataType.INT64)
    return gradient.sum(differs.reshape([-1]), keep=True).reshape(own)


Partial = Callable[..., Term]


def pointwise(*partials: Partial | None) -> Vjp:
    """Of an operator on broadcast inputs.

    Args:
        partials: of each input ``(*inputs, y, dy) -> dy * partial derivative``, in the shape of the output.
    """

    def rule(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
        inputs = [tape.x(index) for index in range(len(node.inputs))]
        y, dy = tape.y(), tape.dy()
        found = {}
        for index, partial in enumerate(partials):
            if partial is not None and tape.wants(index):
                found[index] = sum_to(tape, partial(*inputs, y, dy), tape.dims(y), inputs[index])
        return found

    return rule


def unary(partial: Callable[[Term, Term, Term], Term]) -> Vjp:
    """Of an elementwise operator of one input: ``(x, y, dy) -> dx``."""
    return lambda node, tape: {0: partial(tape.x(), tape.y(), tape.dy())}
