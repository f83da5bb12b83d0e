"""How an operator ties the axes of its inputs and outputs together.

``OpSpec.couple`` is called with a node and an :class:`Axes`.  It asks for the layout of every axis of which
it can say what happens to it; **every axis that it does not ask for is pinned**, so that what is left out is
safe.  ``axes.equal`` says that index i of the one is index i of the other, whatever indices are removed;
``axes.sums`` that the node adds up over an axis, so that a removed index must count as zero.

Shapes are known when it is called: an axis has an int, a name or None, and a value always a rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from onnxslim._ir import ir
from onnxslim.ops.attributes import has, opset_of
from onnxslim.ops.spec import Dims, Facts

__all__ = ["Axes", "Layout", "broadcast", "pointwise", "same_axes"]


class Layout(Protocol):
    """The indices of an axis, opaque to operators."""

    @property
    def size(self) -> int | None:
        """How many they are."""


class Axes(Facts, Protocol):
    """The axes around one node."""

    def dims(self, value: ir.Value | None) -> Dims:
        """Dimensions of a value; none for an absent one."""

    def define(self, value: ir.Value, dims: Dims) -> None:
        """Dimensions of a value of which nothing was known."""

    def of(self, value: ir.Value, axis: int) -> Layout:
        """The layout of an axis (negative ones count from the end); it is spoken for then."""

    def known(self, value: ir.Value | None) -> bool:
        """Whether the rank of a value is known: certain for inputs and outputs of the node itself."""

    def channels(self, value: ir.Value, axis: int) -> Layout:
        """The same, for the axis of a weight along which an operator makes its output channels."""

    def is_weight(self, value: ir.Value) -> bool:
        """Whether a value is stored, maybe as integers that are turned into floats first."""

    def equal(self, a: Layout, b: Layout) -> None:
        """Index i of the one is index i of the other."""

    def join(self, parts: Iterable[Layout]) -> Layout:
        """Layouts one after the other; all of known size."""

    def times(self, parts: Iterable[Layout]) -> Layout:
        """The product of layouts, the last one running fastest."""

    def cut(self, layout: Layout, start: int, stop: int) -> Layout:
        """Some of the indices."""

    def free(self, size: int) -> Layout:
        """Indices that nothing else knows of."""

    def fixed(self, size: int, why: str) -> Layout:
        """Indices of which none may be removed."""

    def pin(self, layout: Layout, why: str) -> None:
        """None of these may be removed."""

    def sums(self, index: int, axis: int) -> Layout:
        """The node adds up products over an axis of input ``index``: absent indices count as zero."""

    def averaged(self, layout: Layout) -> None:
        """Statistics are taken over these indices: pinned, unless such are allowed to change."""

    def elements(self, index: int) -> Sequence[int | Layout | None] | None:
        """The integers of input ``index``; None if nothing is known of any.

        Of each the number, or the axis of unknown size whose size it is, or None.
        """

    def holds(self, index: int, element: int, layout: Layout, *, sign: int = 1) -> None:
        """Element ``element`` (flat) of integer input ``index`` is the size of a layout, times ``sign``."""

    def attribute(self, name: str, content: Layout | Sequence[Layout | int]) -> None:
        """An integer attribute of the node is the size of a layout; a list may hold some, and integers."""

    def lengths(self, index: int, parts: Sequence[Layout]) -> None:
        """Integer input ``index`` is left out and means equal parts; else it lists the sizes of these."""

    def freeze(self, name: str, content: float, layout: Layout) -> None:
        """A float attribute whose default depends on the size of a layout is to be written down as it is."""

    def agree(self, a: Layout, b: Layout) -> None:
        """Two layouts must keep the same size, if not the same indices."""

    def picks(self, index: int, layout: Layout) -> Layout:
        """Constant input ``index`` lists indices of a layout: what they pick, in their order."""


def same_axes(node: ir.Node, axes: Axes, *, but: Iterable[int] = ()) -> None:
    """Every axis of input 0 is that of every output, except some, which stay unspoken for."""
    data = node.inputs[0]
    assert data is not None
    rank = len(axes.dims(data))
    skipped = {axis % rank for axis in but} if rank else set()
    for output in node.outputs:
        if len(axes.dims(output)) == rank:
            for axis in set(range(rank)) - skipped:
                axes.equal(axes.of(data, axis), axes.of(output, axis))


def pointwise(node: ir.Node, axes: Axes) -> None:
    """Output element i depends on the elements i of the (broadcast) inputs alone."""
    if len(node.inputs) > 1 and (has(node, "axis", "broadcast") or (opset_of(node) or 7) < 7):
        return  # inputs were aligned in other ways
    for output in node.outputs:
        broadcast([value for value in node.inputs if value is not None], output, axes)


def broadcast(inputs: Iterable[ir.Value], output: ir.Value, axes: Axes, *, skip: int = 0) -> None:
    """Inputs are broadcast to an output as numpy does, but for the last ``skip`` axes of all.

    An axis of unknown size may or may not be one of 1: what it meets is pinned.
    """
    shape = axes.dims(output)
    for value in inputs:
        dims = axes.dims(value)
        for back in range(1 + skip, min(len(dims), len(shape)) + 1):
            size, other = dims[-back], shape[-back]
            own, result = axes.of(value, -back), axes.of(output, -back)
            if size is not None and size == other:
                axes.equal(own, result)
            elif size != 1:
                axes.pin(own, "it may or may not be broadcast")
                axes.pin(result, "it may or may not be broadcast")
