"""How the indices of an axis are made up, and how two descriptions of one axis are made to agree.

A layout is one of

    Cell            a run of atoms about which nothing more is known (yet),
    Join(a, b, ..)  one after the other, as Concat puts them,
    Times(a, b, ..) the product in row-major order, as Reshape merges axes: index = i_a * size_b + i_b.

Two layouts of one axis are *unified*, as terms are in logic (Robinson 1965): a cell that meets a structure is
bound to it, two cells become one (union-find), and structures are cut or factored until their parts match.
What cannot be matched is pinned.  An axis as long as the run decides is an *open* cell, which may turn out to
be a product whose first factor is open: batch times channels, where a Reshape merges them.  A cell always
stands for at least as many atoms as what it is bound to has in any part, or is open and no factor of it, so
that no layout ever contains itself.  Nothing is done for each index: the time goes with the number of
operators and cuts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd, prod

__all__ = [
    "Cell",
    "Join",
    "Layout",
    "Reason",
    "Times",
    "Unifier",
    "join",
    "times",
    "walk",
]

_MOST = 4096  # parts of one axis: beyond that it is pinned rather than followed


@dataclass(frozen=True, slots=True)
class Reason:
    """Why atoms stay: in words, the node that wants it, and whether the graph's interface does.

    ``open``: only since nobody knows yet how many there are.
    """

    text: str
    node: str = ""
    interface: bool = False
    open: bool = False

    def gives_way(self, other: Reason) -> bool:
        """Whether the other says more."""
        return (self.open and not other.open) or (other.interface and not self.interface)


class Cell:
    """A run of atoms.  ``size`` is None where an axis is as long as the run decides."""

    __slots__ = ("bound", "pin", "size", "weight")

    def __init__(self, size: int | None, pin: Reason | None = None) -> None:
        self.size = size
        self.pin = pin
        self.bound: Layout | None = None
        self.weight = 1


class Parts:
    """What layouts are put together to."""

    is_product = False
    __slots__ = ("parts", "size")

    def __init__(self, parts: tuple[Layout, ...], size: int | None) -> None:
        self.parts = parts
        self.size = size


class Join(Parts):
    """Layouts one after the other."""

    __slots__ = ()


class Times(Parts):
    """The product of layouts, the last one running fastest."""

    is_product = True
    __slots__ = ()


Layout = Cell | Join | Times


def join(parts: Iterable[Layout]) -> Layout:
    """Layouts one after the other; all of known size."""
    kept = tuple(part for part in parts if part.size != 0)
    if len(kept) == 1:
        return kept[0]
    return Join(kept, sum(part.size or 0 for part in kept)) if kept else Cell(0)


def times(parts: Iterable[Layout]) -> Layout:
    """The product of layouts; factors of one atom do not count."""
    kept = tuple(part for part in parts if part.size != 1)
    if len(kept) == 1:
        return kept[0]
    if not kept:
        return Cell(1)
    sizes = [part.size for part in kept]
    return Times(kept, None if None in sizes else prod(size or 0 for size in sizes))


def walk(layout: Layout) -> Layout:
    """What a cell is bound to at last, or the layout itself."""
    if not isinstance(layout, Cell) or layout.bound is None:
        return layout
    end: Layout = layout
    while isinstance(end, Cell) and end.bound is not None:
        end = end.bound
    while isinstance(layout, Cell) and layout.bound is not None:  # the next walk is short
        layout.bound, layout = end, layout.bound
    return end


def _flat(layout: Layout, kind: type[Parts]) -> list[Layout]:
    """The parts of nested structures of one kind."""
    found: list[Layout] = []
    stack = [layout]
    while stack:
        top = walk(stack.pop())
        if isinstance(top, kind):
            stack += reversed(top.parts)
        elif isinstance(top, Cell | Join | Times):
            found.append(top)
    return found


class Unifier:
    """Makes layouts agree; ``node`` is the name of the one that asks, for the reasons."""

    def __init__(self) -> None:
        self.node = ""
        self._todo: list[tuple[Layout, Layout]] = []

    def equal(self, a: Layout, b: Layout) -> None:
        """Index i of the one is index i of the other."""
        self._todo.append((a, b))
        self._settle()

    def cut(self, layout: Layout, start: int, stop: int) -> Layout:
        """Indices ``start`` up to ``stop`` of a layout: none where ``stop`` is not behind ``start``."""
        if start >= stop:
            return Cell(0)
        if stop < (layout.size or 0):
            layout, _ = self._split(layout, stop)
        if start > 0:
            _, layout = self._split(layout, start)
        self._settle()
        return layout

    def pin(self, layout: Layout, reason: Reason) -> None:
        """No atom of it may be removed."""
        stack = [layout]
        while stack:
            top = walk(stack.pop())
            if isinstance(top, Cell):
                if top.pin is None or top.pin.gives_way(reason):
                    top.pin = reason
            else:
                stack += top.parts

    def _settle(self) -> None:
        while self._todo:
            a, b = self._todo.pop()
            a, b = walk(a), walk(b)
            if a is b:
                continue
            if a.size != b.size:
                self._give_up(a, b, "its size is not the same everywhere")
            elif isinstance(a, Cell) and isinstance(b, Cell):
                _unite(a, b)
            elif a.size == 1:
                continue
            elif isinstance(a, Cell):
                self._bind(a, b)
            elif isinstance(b, Cell):
                self._bind(b, a)
            elif isinstance(a, Join) or isinstance(b, Join):
                self._match_joins(a, b)
            else:
                self._match_products(a, b)

    def _give_up(self, a: Layout, b: Layout, why: str) -> None:
        self.pin(a, Reason(why, self.node))
        self.pin(b, Reason(why, self.node))

    def _bind(self, cell: Cell, layout: Layout) -> None:
        if cell.size is None and any(walk(part) is cell for part in _flat(layout, Times)):
            return self._give_up(cell, layout, "it is a multiple of itself")
        if cell.pin is not None and not (cell.pin.open and _opens(layout)):
            self.pin(layout, cell.pin)
        cell.bound = layout

    def _match_joins(self, a: Layout, b: Layout) -> None:
        left, right = deque(_flat(a, Join)), deque(_flat(b, Join))
        if max(len(left), len(right)) > _MOST:
            return self._give_up(a, b, "it is made up of too many parts")
        while left and right:
            x, y = left.popleft(), right.popleft()
            if isinstance(walk(x), Join):  # cut meanwhile
                left.extendleft(reversed(_flat(x, Join)))
                right.appendleft(y)
                continue
            if isinstance(walk(y), Join):
                right.extendleft(reversed(_flat(y, Join)))
                left.appendleft(x)
                continue
            size, other = x.size or 0, y.size or 0
            if size > other:
                x, rest = self._split(x, other)
                left.appendleft(rest)
            elif other > size:
                y, rest = self._split(y, size)
                right.appendleft(rest)
            self._todo.append((x, y))

    def _split(self, layout: Layout, at: int) -> tuple[Layout, Layout]:
        """The first ``at`` indices of a layout, and the rest; both have some."""
        layout = walk(layout)
        size = layout.size or 0
        if isinstance(layout, Cell):
            parts = Cell(at, layout.pin), Cell(size - at, layout.pin)
            layout.bound = Join(parts, size)
            return parts
        if isinstance(layout, Join):
            items = _flat(layout, Join)
            before = index = 0
            while before + (items[index].size or 0) <= at:
                before += items[index].size or 0
                index += 1
            if before == at:
                return join(items[:index]), join(items[index:])
            first, second = self._split(items[index], at - before)
            return join([*items[:index], first]), join([second, *items[index + 1 :]])
        outer, *rest = _flat(layout, Times)
        block = times(rest)
        count, width = outer.size or 0, block.size or 0
        whole, part = divmod(at, width)
        if part == 0:
            first, second = self._split(outer, whole)
            return times((first, block)), times((second, block))
        why = Reason("it is cut in the middle of a block", self.node)
        self.pin(outer, why)
        first, second = self._split(block, part)
        return (
            join((_blocks(whole, block, why), first)),
            join((second, _blocks(count - whole - 1, block, why))),
        )

    def _match_products(self, a: Layout, b: Layout) -> None:
        """Take factors of equal size off both ends; what is between has no common factors."""
        left, right = deque(_flat(a, Times)), deque(_flat(b, Times))
        self._peel(left, right, first=True)
        self._peel(left, right, first=False)
        for one, other in ((left, right), (right, left)):
            only = walk(one[0]) if len(one) == 1 and other else None
            if isinstance(only, Cell) and only.pin is not None and only.pin.open:
                self._todo.append((only, times(other)))  # what an open axis is a product of
                return
        for rest in (*left, *right):
            self.pin(rest, Reason("two ways to factor it do not agree", self.node))

    def _peel(self, left: deque[Layout], right: deque[Layout], *, first: bool) -> None:
        while left and right:
            x, y = (side.popleft() if first else side.pop() for side in (left, right))
            if isinstance(walk(x), Times) or isinstance(walk(y), Times):  # factored meanwhile
                for side, each in ((left, x), (right, y)):
                    more = _flat(each, Times)
                    side.extendleft(reversed(more)) if first else side.extend(more)
                continue
            common = _common(walk(x), walk(y))
            if common <= 1 and walk(x) is not walk(y):
                left.appendleft(x) if first else left.append(x)
                right.appendleft(y) if first else right.append(y)
                return
            ends = []
            for side, each in ((left, x), (right, y)):
                if each.size is None or each.size == common:
                    ends.append(each)
                    continue
                outer, inner = (
                    self._factor(each, common, each.size // common)
                    if first
                    else self._factor(each, each.size // common, common)
                )
                ends.append(outer if first else inner)
                side.appendleft(inner) if first else side.append(outer)
            self._todo.append((ends[0], ends[1]))

    def _factor(self, layout: Layout, outer: int, inner: int) -> tuple[Layout, Layout]:
        """Two layouts whose product equals ``layout``."""
        layout = walk(layout)
        if outer == 1 or inner == 1:
            return (layout, Cell(1)) if inner == 1 else (Cell(1), layout)
        if isinstance(layout, Cell):
            parts = Cell(outer, layout.pin), Cell(inner, layout.pin)
            layout.bound = Times(parts, layout.size)
            return parts
        if isinstance(layout, Times):
            before, factors = 1, _flat(layout, Times)
            for index, factor in enumerate(factors):
                size = factor.size or 0
                if before == outer:
                    return times(factors[:index]), times(factors[index:])
                if before * size > outer:
                    share = outer // before
                    if outer % before or size % share:
                        break
                    head, tail = self._factor(factor, share, size // share)
                    return times([*factors[:index], head]), times([tail, *factors[index + 1 :]])
                before *= size
        items = _flat(layout, Join)
        common = Cell(inner)
        if isinstance(layout, Join) and all((item.size or 0) % inner == 0 for item in items):
            heads = []
            for item in items:
                head, tail = self._factor(item, (item.size or 0) // inner, inner)
                heads.append(head)
                self._todo.append((tail, common))
            return join(heads), common
        if isinstance(layout, Join) and outer <= _MOST // max(1, len(items)):
            rest: Layout = layout
            for _ in range(outer - 1):
                piece, rest = self._split(rest, inner)
                self._todo.append((piece, common))
            self._todo.append((rest, common))
            return Cell(outer, Reason("blocks of it are told apart", self.node)), common
        why = Reason("two ways to factor it do not agree", self.node)
        self.pin(layout, why)
        return Cell(outer, why), Cell(inner, why)


def _opens(layout: Layout) -> bool:
    """Whether what is open of a product comes first, so that the rest repeats."""
    sizes = [part.size for part in _flat(layout, Times)]
    return None not in sizes[sum(size is None for size in sizes) :]


def _common(x: Layout, y: Layout) -> int:
    return 0 if x.size is None or y.size is None else gcd(x.size, y.size)


def _blocks(count: int, block: Layout, reason: Reason) -> Layout:
    if count == 0:
        return Cell(0)
    return times((Cell(count, reason), block))


def _unite(a: Cell, b: Cell) -> None:
    if a.weight < b.weight:
        a, b = b, a
    a.weight += b.weight
    b.bound = a
    if b.pin is not None and (a.pin is None or a.pin.gives_way(b.pin)):
        a.pin = b.pin
