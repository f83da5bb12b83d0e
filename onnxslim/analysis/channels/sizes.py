"""Integers that hold sizes of axes: which stored ones have to change, and which forbid a change.

Every element of a small integer tensor bears a token, which moves with it (Gather, Concat, ...).  A token
comes from an element of a stored tensor, which may be rewritten, from a Shape, which follows its tensor by
itself, or from anything else, which stays as it is.  Operators demand that an element be the size of a layout;
at the end every demand is met or its layout pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels.layout import Cell, Layout, Reason, Unifier, walk
from onnxslim.model.edit import constant_value
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import Dims, OpSpec

__all__ = ["Demand", "Sizes", "size_form"]

_MOST = 64  # elements: no list of dimensions is longer
Tokens = npt.NDArray[np.int64]
Form = Mapping[tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class Demand:
    """An element of a stored integer tensor that holds ``sign`` times the size of a layout."""

    value: ir.Value
    element: int
    layout: Layout
    sign: int
    reason: Reason


@dataclass(slots=True)
class _Token:
    """Where an integer comes from: a stored element, the size of a layout, or neither."""

    value: ir.Value | None = None
    element: int = 0
    layout: Layout | None = None


class Sizes:
    """Follows tokens through the graph and collects demands; ask in topological order."""

    def __init__(self, unifier: Unifier) -> None:
        self._unifier = unifier
        self._tokens: list[_Token] = []
        self._of: dict[ir.Value, Tokens] = {}
        self._demands: list[tuple[_Token, Layout | None, int, Reason]] = []
        self._agreements: list[tuple[Layout, Layout, Reason]] = []

    def holds(self, value: ir.Value, element: int, layout: Layout, sign: int, reason: Reason) -> None:
        """Demand that an element hold the size of a layout."""
        tokens = self._tokens_of(value)
        if tokens is None or element >= tokens.size:
            self._unifier.pin(layout, reason)
        else:
            token = self._tokens[tokens.reshape(-1)[element]]
            self._demands.append((token, layout, sign, reason))

    def agree(self, a: Layout, b: Layout, reason: Reason) -> None:
        """Demand that two layouts keep the same size."""
        self._agreements.append((a, b, reason))

    def stays(self, value: ir.Value, reason: Reason) -> None:
        """Demand that no element change: it is read as a number, not as a size."""
        tokens = self._tokens_of(value)
        if tokens is not None:
            demands = ((self._tokens[token], None, 1, reason) for token in set(tokens.reshape(-1).tolist()))
            self._demands += demands

    def shape(self, output: ir.Value, layouts: list[Layout], node: ir.Node, spec: OpSpec) -> None:
        """``output`` lists sizes of a tensor's axes: all, or those that the node's attributes say."""
        assert spec.from_dims is not None
        tokens = np.array([self._add(_Token(layout=layout)) for layout in layouts], np.int64)
        listed = spec.from_dims(node, tokens)
        if listed is not None and listed.ndim == 1:
            self._of[output] = listed

    def move(self, node: ir.Node, spec: OpSpec) -> set[int]:
        """Carry tokens on where the node only moves integers; the indices of the inputs that it moves."""
        moved = set(spec.moved_inputs(node))
        if spec.elementwise and len(node.inputs) == 1:
            return self._convert(node, spec)
        if not moved or spec.numpy is None or len(node.outputs) == 0:
            return set()
        inputs: list[npt.NDArray[np.generic] | None] = []
        for index, value in enumerate(node.inputs):
            if value is None:
                inputs.append(None)
                continue
            array = self._tokens_of(value) if index in moved else constant_value(value)
            if array is None or array.size > _MOST:
                return set()
            inputs.append(array)
        try:
            results = spec.numpy(node, inputs)
        except (ArithmeticError, IndexError, TypeError, ValueError):
            return set()
        for output, result in zip(node.outputs, results, strict=True):
            self._of[output] = np.asarray(result, np.int64)
        return moved

    def _convert(self, node: ir.Node, spec: OpSpec) -> set[int]:
        """A Cast between integers and its like leave tokens as they are."""
        tokens = None if node.inputs[0] is None else self._tokens_of(node.inputs[0])
        if tokens is None or spec.numpy is None:
            return set()
        probe = tokens + _MOST  # numbers that a Sign or a comparison would not keep
        try:
            (result,) = spec.numpy(node, [probe])
        except (ArithmeticError, TypeError, ValueError):
            return set()
        if not np.array_equal(result, probe) or np.asarray(result).dtype.kind != "i":
            return set()
        self._of[node.outputs[0]] = tokens
        return {0}

    def _tokens_of(self, value: ir.Value) -> Tokens | None:
        if value not in self._of:
            if value.dtype is not None and value.dtype not in _INTEGERS:
                return None
            content = constant_value(value)
            if content is None or content.size > _MOST or content.dtype not in (np.int64, np.int32):
                return None
            tokens = [self._add(_Token(value, element)) for element in range(content.size)]
            self._of[value] = np.array(tokens, np.int64).reshape(content.shape)
        return self._of[value]

    def _add(self, token: _Token) -> int:
        self._tokens.append(token)
        return len(self._tokens) - 1

    def settle(self) -> list[Demand]:
        """Pin what cannot be met, and tell which stored elements hold the size of what."""
        pinned = True
        while pinned:
            pinned = self._pin_conflicts()
        found: dict[tuple[int, int], Demand] = {}
        for token, layout, sign, reason in self._demands:
            if token.value is not None and layout is not None and _free(layout):
                key = (id(token.value), token.element)
                found.setdefault(key, Demand(token.value, token.element, layout, sign, reason))
        return list(found.values())

    def resized(self, demands: Iterable[Demand]) -> dict[ir.Value, list[Layout]]:
        """Integer tensors whose elements hold the sizes of these layouts, stored or computed."""
        demanded = {(id(demand.value), demand.element): demand.layout for demand in demands}
        found: dict[ir.Value, list[Layout]] = {}
        for value, tokens in self._of.items():
            for token in map(self._tokens.__getitem__, tokens.reshape(-1).tolist()):
                layout = token.layout or demanded.get((id(token.value), token.element))
                if layout is not None and _free(layout):
                    found.setdefault(value, []).append(layout)
        return found

    def _pin_conflicts(self) -> bool:
        """Whether anything had to be pinned, by which other demands may fail."""
        pinned = False
        wanted: dict[tuple[int, int], list[tuple[Layout | None, int, Reason]]] = {}
        for token, layout, sign, reason in self._demands:
            if token.value is not None:
                wanted.setdefault((id(token.value), token.element), []).append((layout, sign, reason))
            elif token.layout is not None and layout is not None and sign == 1:
                pinned |= self._pin_unless_equal(token.layout, layout, reason)
            else:
                for each in (token.layout, layout):
                    pinned |= each is not None and self._pin_free(each, reason)
        for demands in wanted.values():
            layouts = [layout for layout, _, _ in demands if layout is not None]
            forms = [
                None if layout is None or not _free(layout) else (size_form(layout), sign)
                for layout, sign, _ in demands
            ]
            if any(form != forms[0] for form in forms):
                for layout in layouts:
                    pinned |= self._pin_free(layout, demands[0][2])
        for a, b, reason in self._agreements:
            pinned |= self._pin_unless_equal(a, b, reason)
        return pinned

    def _pin_unless_equal(self, a: Layout, b: Layout, reason: Reason) -> bool:
        if size_form(a) == size_form(b):
            return False
        first = self._pin_free(a, reason)
        return self._pin_free(b, reason) or first

    def _pin_free(self, layout: Layout, reason: Reason) -> bool:
        if not _free(layout):
            return False
        self._unifier.pin(layout, reason)
        return True


def size_form(layout: Layout) -> Form:
    """The size as a polynomial in those of free cells: product of cells -> coefficient.

    Axes of unknown size count as cells of their own.

    Example:
        >>> a, b = Cell(2), Cell(3, Reason("it is an output"))
        >>> list(size_form(a).values()), size_form(b)
        ([1], {(): 3})
    """
    layout = walk(layout)
    if isinstance(layout, Cell):
        known = layout.size is not None and (layout.pin is not None or layout.size < 2)
        return {(): layout.size or 0} if known else {(id(layout),): 1}
    forms = [size_form(part) for part in layout.parts]
    total: dict[tuple[int, ...], int] = {}
    if layout.is_product:
        total = dict(forms[0])
        for form in forms[1:]:
            product: dict[tuple[int, ...], int] = {}
            for cells, factor in total.items():
                for more, other in form.items():
                    key = tuple(sorted((*cells, *more)))
                    product[key] = product.get(key, 0) + factor * other
            total = product
    else:
        for form in forms:
            for cells, factor in form.items():
                total[cells] = total.get(cells, 0) + factor
    return total


def _free(layout: Layout) -> bool:
    """Whether any atom may be removed."""
    stack = [layout]
    while stack:
        top = walk(stack.pop())
        if isinstance(top, Cell):
            if top.pin is None and top.size != 1:
                return True
        else:
            stack += top.parts
    return False


_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
