"""Formulas that become nodes: what is done with a term is emitted as standard operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.spec import Array, Facts

__all__ = ["Emitter", "Term", "integers", "joined"]

Dim = int | str | None
Operand = "Term | float"


class Emitter(Facts, Protocol):
    """Where new nodes go; it also knows what is known about the values that were there before."""

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any],
        outputs: int = 1,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """Append a node; its outputs."""

    def store(self, array: Array) -> ir.Value:
        """A constant; equal ones are stored once."""

    def name(self) -> str:
        """A name that no value bears."""


@dataclass(frozen=True, slots=True)
class Term:
    """A value in a formula.

    Numbers in a formula become constants of the term's element type.

    Attributes:
        emitter: takes the nodes that a formula becomes.
        value: what the term stands for.
        dtype: its element type.
    """

    emitter: Emitter
    value: ir.Value
    dtype: ir.DataType

    def then(
        self, op_type: str, *others: Term | float | None, dtype: ir.DataType | None = None, **attributes: Any
    ) -> Term:
        """The output of an operator whose first input is this term.

        Args:
            dtype: of the result, where it is not that of the term.
        """
        inputs = [self.value, *(None if o is None else self.like(o).value for o in others)]
        [output] = self.emitter.emit(op_type, inputs, attributes)
        return Term(self.emitter, output, dtype or self.dtype)

    def like(self, other: Term | float) -> Term:
        """A term as it is, a number as a constant of this element type."""
        if isinstance(other, Term):
            return other
        return Term(self.emitter, self.emitter.store(np.array(other, self.dtype.numpy())), self.dtype)

    def of(self, value: ir.Value) -> Term:
        """Another value of this element type."""
        return Term(self.emitter, value, self.dtype)

    def constant(self, array: Array) -> Term:
        """An array of whatever type as a constant."""
        return Term(self.emitter, self.emitter.store(array), ir.DataType.from_numpy(array.dtype))

    def __add__(self, other: Term | float) -> Term:
        return self.then("Add", other)

    def __radd__(self, other: float) -> Term:
        return self.then("Add", other)

    def __sub__(self, other: Term | float) -> Term:
        return self.then("Sub", other)

    def __rsub__(self, other: float) -> Term:
        return self.like(other).then("Sub", self)

    def __mul__(self, other: Term | float) -> Term:
        return self.then("Mul", other)

    def __rmul__(self, other: float) -> Term:
        return self.then("Mul", other)

    def __truediv__(self, other: Term | float) -> Term:
        return self.then("Div", other)

    def __rtruediv__(self, other: float) -> Term:
        return self.then("Reciprocal") if other == 1 else self.like(other).then("Div", self)

    def __neg__(self) -> Term:
        return self.then("Neg")

    def __gt__(self, other: Term | float) -> Term:
        return self.then("Greater", other, dtype=ir.DataType.BOOL)

    def __ge__(self, other: Term | float) -> Term:
        return self.then("GreaterOrEqual", other, dtype=ir.DataType.BOOL)

    def __lt__(self, other: Term | float) -> Term:
        return self.then("Less", other, dtype=ir.DataType.BOOL)

    def __le__(self, other: Term | float) -> Term:
        return self.then("LessOrEqual", other, dtype=ir.DataType.BOOL)

    def equals(self, other: Term | float) -> Term:
        """Where both are equal, as booleans."""
        return self.then("Equal", other, dtype=ir.DataType.BOOL)

    def both(self, other: Term) -> Term:
        """Logical and."""
        return self.then("And", other)

    def choose(self, yes: Term | float, no: Term | float) -> Term:
        """Of booleans: the one where they hold, the other elsewhere; at least one of them a term."""
        typed = yes if isinstance(yes, Term) else no
        assert isinstance(typed, Term)
        return self.then("Where", typed.like(yes), typed.like(no), dtype=typed.dtype)

    def where(self, condition: Term) -> Term:
        """Where booleans hold, and zero elsewhere; a product is an order of magnitude faster than a Where.

        What is not finite stays so; use :meth:`choose` to leave it out.
        """
        return self * condition.cast(self.dtype)

    def cast(self, dtype: ir.DataType) -> Term:
        """The same numbers in another element type."""
        return self if dtype == self.dtype else self.then("Cast", dtype=dtype, to=int(dtype))

    def sum(self, axes: Iterable[int] | Term, *, keep: bool = False) -> Term:
        """Summed over axes; over none where the list is empty."""
        if not isinstance(axes, Term):
            axes = integers(self, axes)
        return self.then("ReduceSum", axes, keepdims=int(keep), noop_with_empty_axes=1)

    def mean(self, axes: Iterable[int], *, keep: bool = True) -> Term:
        """The mean over axes."""
        return self.then("ReduceMean", integers(self, axes), keepdims=int(keep))

    def reshape(self, dims: Iterable[int] | Term) -> Term:
        """Of other dimensions; a -1 is what is left."""
        return self.then("Reshape", dims if isinstance(dims, Term) else integers(self, dims))

    def transpose(self, perm: Iterable[int]) -> Term:
        """With its axes in another order."""
        order = list(perm)
        return self if order == sorted(order) else self.then("Transpose", perm=order)

    def expand(self, dims: Term) -> Term:
        """Broadcast to dimensions."""
        return self.then("Expand", dims)

    def unsqueeze(self, axes: Iterable[int]) -> Term:
        """With further axes of size 1."""
        axes = list(axes)
        return self.then("Unsqueeze", integers(self, axes)) if axes else self

    def squeeze(self, axes: Iterable[int]) -> Term:
        """Without some axes of size 1."""
        axes = list(axes)
        return self.then("Squeeze", integers(self, axes)) if axes else self

    def shape(self) -> Term:
        """Its dimensions, found when the model runs."""
        return self.then("Shape", dtype=ir.DataType.INT64)

    def slice(
        self,
        starts: Iterable[int],
        ends: Iterable[int],
        axes: Iterable[int],
        steps: Iterable[int] | None = None,
    ) -> Term:
        """A part of it."""
        lists = [integers(self, each) for each in (starts, ends, axes, *([] if steps is None else [steps]))]
        return self.then("Slice", *lists)

    def pad(self, pads: Iterable[int]) -> Term:
        """With zeros around it: those in front of every axis, then those behind."""
        counts = list(pads)
        return self.then("Pad", integers(self, counts)) if any(counts) else self

    def split(self, sizes: Sequence[int], axis: int) -> list[Term]:
        """Parts along an axis."""
        inputs = [self.value, integers(self, sizes).value]
        parts = self.emitter.emit("Split", inputs, {"axis": axis}, len(sizes))
        return [Term(self.emitter, part, self.dtype) for part in parts]

    @property
    def dims(self) -> tuple[Dim, ...] | None:
        """What is known about its dimensions; None where the rank is unknown."""
        found = self.emitter.shape(self.value)
        return None if found is None else tuple(found)


def integers(term: Term, numbers: Iterable[int]) -> Term:
    """A list of integers as a constant, for the operators that read axes or sizes."""
    return term.constant(np.array(list(numbers), np.int64))


def joined(terms: Sequence[Term], axis: int) -> Term:
    """Terms one after the other along an axis."""
    if len(terms) == 1:
        return terms[0]
    return terms[0].then("Concat", *terms[1:], axis=axis)
