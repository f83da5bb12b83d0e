"""Integers that hold sizes of axes: which change by themselves, which are rewritten, which forbid a change.

Every element of a small integer tensor bears a token, which moves with it (Gather, Concat, ...).  A token
comes from an element of a stored tensor, which may be rewritten, from a Shape, which follows its tensor by
itself, or from a computation with such.  Operators say which elements have to hold the size of which layout.
Where an element does not follow by itself and cannot be rewritten for all its readers alike, the reader is
given a corrected copy.  What is read as a mere number must stay as it is, and so must the layouts behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels.layout import Cell, Layout, Reason, Unifier, walk
from onnxslim.model.edit import constant_value
from onnxslim.ops.spec import Array, OpSpec

__all__ = ["Held", "Settled", "Sizes", "size_form"]

_MOST = 64  # elements: no list of dimensions is longer
_INTEGERS = (np.dtype(np.int64), np.dtype(np.int32))
Tokens = npt.NDArray[np.int64]
Form = Mapping[tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class Held:
    """Element ``element`` (flat) of an input of a node holds ``sign`` times the size of a layout."""

    node: ir.Node
    index: int
    element: int
    layout: Layout
    sign: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Settled:
    """What has to be done about sizes.

    Attributes:
        stored: elements of stored tensors to rewrite in place: tensor, element -> what it holds.
        copies: elements that one reader wants corrected.
        resized: integer tensors, stored or computed, whose elements hold sizes of these layouts.
        lengths: integer tensors -> how many elements they have.
    """

    stored: Mapping[tuple[ir.Value, int], Held]
    copies: tuple[Held, ...]
    resized: Mapping[ir.Value, Sequence[Layout]]
    lengths: Mapping[ir.Value, int]


@dataclass(slots=True)
class _Token:
    """An integer: its value if known, the stored element that it is, the layouts whose sizes it follows.

    It is the size of the only layout itself if ``exact``, else something computed.
    """

    number: int | None
    value: ir.Value | None = None
    element: int = 0
    layouts: tuple[Layout, ...] = ()
    exact: bool = False
    stays: bool = False


class Sizes:
    """Follows tokens through the graph and collects what they hold; ask in topological order."""

    def __init__(self, unifier: Unifier) -> None:
        self._unifier = unifier
        self._tokens: list[_Token] = []
        self._of: dict[ir.Value, Tokens] = {}
        self._held: list[tuple[int, Held]] = []
        self._stays: list[tuple[int, Reason]] = []
        self._agreements: list[tuple[Layout, Layout, Reason]] = []

    def holds(self, held: Held, length: int | None) -> None:
        """An element holds the size of a layout; ``length`` of its tensor, if known."""
        value = held.node.inputs[held.index]
        tokens = None if value is None else self._tokens_of(value)
        if tokens is None and value is not None and length is not None and held.element < length:
            tokens = self._of[value] = np.array([self._add(_Token(None)) for _ in range(length)], np.int64)
        if tokens is None or held.element >= tokens.size:
            self._unifier.pin(held.layout, held.reason)
        else:
            self._held.append((int(tokens.reshape(-1)[held.element]), held))

    def agree(self, a: Layout, b: Layout, reason: Reason) -> None:
        """Two layouts keep the same size."""
        self._agreements.append((a, b, reason))

    def stays(self, value: ir.Value, reason: Reason, but: Iterable[int] = ()) -> None:
        """Elements, except some, are read as numbers rather than as sizes."""
        tokens = self._tokens_of(value)
        if tokens is not None:
            skipped = set(but)
            for element, token in enumerate(tokens.reshape(-1).tolist()):
                if element not in skipped:
                    self._stays.append((token, reason))

    def numbers(self, value: ir.Value) -> Array | None:
        """The content of a small integer tensor as it is computed now, if all of it is known."""
        tokens = self._of.get(value)
        if tokens is None:
            return None
        found = [self._tokens[token].number for token in tokens.reshape(-1).tolist()]
        known = [number for number in found if number is not None]
        return np.array(known, np.int64).reshape(tokens.shape) if len(known) == len(found) else None

    def elements(self, value: ir.Value) -> list[int | Layout | None] | None:
        """The elements of a small vector of integers, None if nothing is known of any.

        Of each the number, or the axis of unknown size whose size it is, or None.
        """
        tokens = self._tokens_of(value)
        if tokens is None or tokens.ndim != 1:
            return None
        found: list[int | Layout | None] = []
        for token in map(self._tokens.__getitem__, tokens.tolist()):
            axis = walk(token.layouts[0]) if token.exact else None
            found.append(axis if token.number is None else token.number)
        return found

    def shape(self, node: ir.Node, spec: OpSpec, layouts: Sequence[Layout]) -> None:
        """The output lists sizes of a tensor's axes: all, or those that the node's attributes say."""
        assert spec.from_dims is not None
        own = [_Token(layout.size, layouts=(layout,), exact=True) for layout in layouts]
        listed = spec.from_dims(node, np.array([self._add(token) for token in own], np.int64))
        if listed is not None and listed.ndim == 1:
            self._of[node.outputs[0]] = listed

    def follow(self, node: ir.Node, spec: OpSpec) -> set[int]:
        """Carry tokens on where the node moves or computes integers; the inputs that it does so with."""
        if spec.numpy is None or not spec.foldable:
            return set()
        moved = set(spec.moved_inputs(node))
        if spec.elementwise and len(node.inputs) == 1:
            return self._convert(node, spec) or self._compute(node, spec)
        return (self._move(node, spec, moved) if moved else set()) or self._compute(node, spec)

    def _convert(self, node: ir.Node, spec: OpSpec) -> set[int]:
        """A Cast between integers and its like leave tokens as they are."""
        tokens = None if node.inputs[0] is None else self._tokens_of(node.inputs[0])
        if tokens is None:
            return set()
        probe = tokens + _MOST  # numbers that a Sign or a comparison would not keep
        for dtype in _INTEGERS:  # some operators want the very type
            results = _evaluate(node, spec, [probe.astype(dtype)])
            result = None if results is None else np.asarray(results[0])
            if result is not None and result.dtype in _INTEGERS and np.array_equal(result, probe):
                self._of[node.outputs[0]] = tokens
                return {0}
        return set()

    def _move(self, node: ir.Node, spec: OpSpec, moved: set[int]) -> set[int]:
        inputs: list[Array | None] = []
        for index, value in enumerate(node.inputs):
            array = (
                None if value is None else self._tokens_of(value) if index in moved else self._content(value)
            )
            if value is not None and array is None:
                return set()
            inputs.append(array)
        results = _evaluate(node, spec, inputs)
        if results is None:
            return set()
        for output, result in zip(node.outputs, results, strict=True):
            self._of[output] = np.asarray(result, np.int64)
        return moved

    def _compute(self, node: ir.Node, spec: OpSpec) -> set[int]:
        """Integers from integers, all of them known."""
        tokens = [None if value is None else self._tokens_of(value) for value in node.inputs]
        if len(node.outputs) != 1 or not tokens or any(each is None for each in tokens):
            return set()
        contents = [None if value is None else self._content(value) for value in node.inputs]
        if any(each is None for each in contents):
            return set()
        results = _evaluate(node, spec, contents)
        if results is None or np.asarray(results[0]).dtype not in _INTEGERS:
            return set()
        behind: dict[int, Layout] = {}
        for each in tokens:
            for token in [] if each is None else each.reshape(-1).tolist():
                behind.update((id(layout), layout) for layout in self._tokens[token].layouts)
                self._tokens[token].stays = True
        layouts = tuple(behind.values())
        array = np.asarray(results[0])
        made = [self._add(_Token(int(number), layouts=layouts)) for number in array.reshape(-1)]
        self._of[node.outputs[0]] = np.array(made, np.int64).reshape(array.shape)
        return set(range(len(node.inputs)))

    def _content(self, value: ir.Value) -> Array | None:
        content = constant_value(value)
        content = self.numbers(value) if content is None else content
        return None if content is None or content.size > _MOST else content

    def _tokens_of(self, value: ir.Value) -> Tokens | None:
        if value not in self._of:
            if value.dtype is not None and value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
                return None
            content = constant_value(value)
            if content is None or content.size > _MOST or content.dtype not in _INTEGERS:
                return None
            flat = content.reshape(-1).tolist()
            tokens = [self._add(_Token(number, value, place)) for place, number in enumerate(flat)]
            self._of[value] = np.array(tokens, np.int64).reshape(content.shape)
        return self._of[value]

    def _add(self, token: _Token) -> int:
        self._tokens.append(token)
        return len(self._tokens) - 1

    def settle(self) -> Settled:
        """Pin what has to stay, and tell what to rewrite."""
        for index, reason in self._stays:
            token = self._tokens[index]
            token.stays = True
            for layout in token.layouts:
                self._pin_free(layout, reason)
        pinned = True
        while pinned:  # a pin may break another agreement
            results = [self._pin_unless_equal(*agreement) for agreement in self._agreements]
            pinned = any(results)
        readers: dict[tuple[ir.Value, int], list[Held]] = {}
        copies: list[Held] = []
        alone: set[tuple[ir.Value, int]] = set()  # several tokens of one element: only the first is its own
        for index, held in self._held:
            token = self._tokens[index]
            if token.value is not None:
                if held.layout.size is None:
                    self._pin_free(held.layout, held.reason)
                readers.setdefault((token.value, token.element), []).append(held)
                if token.stays:
                    alone.add((token.value, token.element))
            elif not self._follows(token, held):
                if held.layout.size is not None:
                    copies.append(held)
                else:
                    for layout in (held.layout, *token.layouts):
                        self._pin_free(layout, held.reason)
        stored: dict[tuple[ir.Value, int], Held] = {}
        for place, listed in readers.items():
            forms = [(size_form(held.layout), held.sign) for held in listed]
            if not any(_free(held.layout) for held in listed):
                continue
            if place not in alone and all(form == forms[0] for form in forms):
                stored[place] = listed[0]
            else:
                copies += [held for held in listed if _free(held.layout)]
        lengths = {value: tokens.size for value, tokens in self._of.items()}
        return Settled(stored, tuple(copies), self._resized(stored), lengths)

    def _follows(self, token: _Token, held: Held) -> bool:
        """Whether a computed element is right by itself, whatever is removed."""
        if not _free(held.layout) and not any(map(_free, token.layouts)):
            return True
        exact = token.exact and held.sign == 1
        return exact and size_form(token.layouts[0]) == size_form(held.layout)

    def _resized(self, stored: Mapping[tuple[ir.Value, int], Held]) -> dict[ir.Value, list[Layout]]:
        found: dict[ir.Value, list[Layout]] = {}
        for value, tokens in self._of.items():
            for token in map(self._tokens.__getitem__, tokens.reshape(-1).tolist()):
                held = None if token.value is None else stored.get((token.value, token.element))
                layouts = token.layouts if held is None else (held.layout,)
                if any(map(_free, layouts)):
                    found.setdefault(value, []).extend(layouts)
        return found

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


def _evaluate(node: ir.Node, spec: OpSpec, inputs: Sequence[Array | None]) -> Sequence[Array | None] | None:
    assert spec.numpy is not None
    try:
        size = None if spec.output_bytes is None else spec.output_bytes(node, inputs)
        if size is None or size > 8 * _MOST:
            return None
        with np.errstate(all="ignore"):
            return spec.numpy(node, inputs)
    except (ArithmeticError, IndexError, TypeError, ValueError):
        return None  # what fails here fails, if at all, when the model runs


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
