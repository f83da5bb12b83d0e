"""The axes around a node, as operators see them; collects what a rewrite has to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels import layout as layouts
from onnxslim.analysis.channels.layout import Cell, Layout, Reason, Unifier
from onnxslim.analysis.channels.refine import refined
from onnxslim.analysis.channels.sizes import Held, Settled, Sizes
from onnxslim.analysis.facts import Known
from onnxslim.ops.coupling import Layout as AnyLayout
from onnxslim.ops.registry import is_dequantize, spec_of
from onnxslim.ops.spec import Array, Dims

__all__ = ["Attribute", "Coupling", "Frozen", "Lengths", "Pick", "Sum", "Survey"]


@dataclass(frozen=True, slots=True)
class Sum:
    """A node adds up over an axis of one of its inputs, of so many axes."""

    node: ir.Node
    index: int
    axis: int
    rank: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Attribute:
    """An integer attribute that holds sizes: one, or a list with integers among them."""

    node: ir.Node
    name: str
    content: Layout | tuple[Layout | int, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """An input that is left out, since the sizes that it would list are equal."""

    node: ir.Node
    index: int
    parts: tuple[Layout, ...]


@dataclass(frozen=True, slots=True)
class Frozen:
    """A float attribute whose default changes with the size of a layout."""

    node: ir.Node
    name: str
    content: float
    layout: Layout


@dataclass(frozen=True, slots=True)
class Pick:
    """A constant input that lists indices of a layout."""

    node: ir.Node
    index: int
    layout: Layout


@dataclass(frozen=True)
class Survey:
    """Everything about the axes of a model; bound to the model that it was made of.

    Attributes:
        axes: value -> the layout of each axis that was ever asked for.
        weights: axes along which operators make their output channels, each once.
    """

    axes: Mapping[ir.Value, Mapping[int, Layout]]
    weights: tuple[tuple[ir.Value, int], ...]
    sums: tuple[Sum, ...]
    attributes: tuple[Attribute, ...]
    lengths: tuple[Lengths, ...]
    frozen: tuple[Frozen, ...]
    picks: tuple[Pick, ...]
    sizes: Settled


class Coupling:
    """The :class:`onnxslim.ops.coupling.Axes` of one node after the other."""

    def __init__(self, facts: Known, names: Mapping[str, str], *, residual: bool) -> None:
        self._facts = facts
        self._names = names
        self._residual = residual
        self._unifier = Unifier()
        self.sizes = Sizes(self._unifier)
        self._axes: dict[ir.Value, dict[int, Layout]] = {}
        self._named: dict[str, Cell] = {}
        self._weights: dict[tuple[ir.Value, int], None] = {}
        self._sums: list[Sum] = []
        self._attributes: list[Attribute] = []
        self._lengths: list[Lengths] = []
        self._frozen: list[Frozen] = []
        self._picks: list[Pick] = []
        self._node: ir.Node | None = None
        self._refined: dict[ir.Value, Dims] = {}
        self._spoken: set[tuple[ir.Value, int]] = set()
        self._held: dict[ir.Value, set[int]] = {}
        self._indices: set[ir.Value] = set()

    # What operators call

    def shape(self, value: ir.Value) -> Dims | None:
        known = self._refined.get(value) or self._facts.shape(value)
        if known is None and value.is_graph_input() and value.shape is not None:  # of a body: it is declared
            return tuple(size if isinstance(size, int) else size.value for size in value.shape)
        return known

    def define(self, value: ir.Value, dims: Dims) -> None:
        if self.shape(value) is None:
            self._refined[value] = dims

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        return self._facts.dtype(value)

    def constant(self, value: ir.Value) -> Array | None:
        content = self._facts.constant(value)
        return self.sizes.numbers(value) if content is None else content

    def dims(self, value: ir.Value | None) -> Dims:
        shape = None if value is None else self.shape(value)
        return () if shape is None else shape

    def known(self, value: ir.Value | None) -> bool:
        return value is not None and self.shape(value) is not None

    def of(self, value: ir.Value, axis: int) -> Layout:
        axis %= len(self.dims(value))
        self._spoken.add((value, axis))
        return self.layout(value, axis)

    def channels(self, value: ir.Value, axis: int) -> Layout:
        axis %= len(self.dims(value))
        self._weights.setdefault((value, axis))
        return self.of(value, axis)

    def is_weight(self, value: ir.Value) -> bool:
        while (producer := value.producer()) is not None and is_dequantize(producer):
            source = producer.inputs[0]
            if source is None:
                return False
            value = source
        return self._facts.constant(value) is not None

    def equal(self, a: AnyLayout, b: AnyLayout) -> None:
        self._unifier.equal(_ours(a), _ours(b))

    def join(self, parts: Iterable[AnyLayout]) -> Layout:
        return layouts.join(map(_ours, parts))

    def times(self, parts: Iterable[AnyLayout]) -> Layout:
        return layouts.times(map(_ours, parts))

    def cut(self, layout: AnyLayout, start: int, stop: int) -> Layout:
        return self._unifier.cut(_ours(layout), start, stop)

    def free(self, size: int) -> Layout:
        return Cell(size)

    def fixed(self, size: int, why: str) -> Layout:
        return Cell(size, self._reason(why))

    def pin(self, layout: AnyLayout, why: str) -> None:
        self._unifier.pin(_ours(layout), self._reason(why))

    def sums(self, index: int, axis: int) -> Layout:
        assert self._node is not None
        value = self._node.inputs[index]
        assert value is not None
        found = self.of(value, axis)
        rank = len(self.dims(value))
        self._sums.append(Sum(self._node, index, axis % rank, rank, found))
        return found

    def averaged(self, layout: AnyLayout) -> None:
        if not self._residual:
            self.pin(layout, "a normalisation takes statistics over it")

    def elements(self, index: int) -> Sequence[int | Layout | None] | None:
        assert self._node is not None
        value = self._node.inputs[index]
        return None if value is None else self.sizes.elements(value)

    def holds(self, index: int, element: int, layout: AnyLayout, *, sign: int = 1) -> None:
        assert self._node is not None
        value = self._node.inputs[index]
        assert value is not None
        self._held.setdefault(value, set()).add(element)
        dims = self.dims(value)
        length = dims[0] if len(dims) == 1 and isinstance(dims[0], int) else None
        why = self._reason("its size is known at run time only")
        self.sizes.holds(Held(self._node, index, element, _ours(layout), sign, why), length)

    def attribute(self, name: str, content: AnyLayout | Sequence[AnyLayout | int]) -> None:
        assert self._node is not None
        if isinstance(content, Sequence):
            parts = tuple(part if isinstance(part, int) else _ours(part) for part in content)
            self._attributes.append(Attribute(self._node, name, parts))
        else:
            self._attributes.append(Attribute(self._node, name, _ours(content)))

    def lengths(self, index: int, parts: Sequence[AnyLayout]) -> None:
        assert self._node is not None
        self._lengths.append(Lengths(self._node, index, tuple(map(_ours, parts))))

    def freeze(self, name: str, content: float, layout: AnyLayout) -> None:
        assert self._node is not None
        self._frozen.append(Frozen(self._node, name, content, _ours(layout)))

    def agree(self, a: AnyLayout, b: AnyLayout) -> None:
        self.sizes.agree(_ours(a), _ours(b), self._reason("two sizes have to stay the same"))

    def picks(self, index: int, layout: AnyLayout) -> Layout:
        assert self._node is not None
        value, data = self._node.inputs[index], _ours(layout)
        content = None if value is None else self._facts.constant(value)
        if value is None or content is None or content.dtype.kind not in "iu" or data.size is None:
            why = "it is indexed by what is known at run time only"
            self.pin(data, why)
            return self.fixed(0, why)
        self._indices.add(value)
        places = np.where(content < 0, content + data.size, content).reshape(-1)
        if places.size and not (places.min() >= 0 and places.max() < data.size):
            self.pin(data, "an index is out of range")
            return self.fixed(int(places.size), "an index is out of range")
        runs = _runs(places)
        if len(runs) > 1024:
            self.pin(data, "its indices are picked one by one")
            return self.fixed(int(places.size), "its indices are picked one by one")
        found = self.join([self.cut(data, start, stop) for start, stop in runs])
        if content.ndim == 0 or sum(1 for _ in value.uses()) > 1:
            self.pin(found, "it is picked by its index")
        self._picks.append(Pick(self._node, index, data))
        return found

    # What the walk over the graph calls

    def layout(self, value: ir.Value, axis: int) -> Layout:
        """The layout of an axis, whoever asks."""
        axes = self._axes.setdefault(value, {})
        if axis not in axes:
            axes[axis] = self._fresh(value, axis)
        return axes[axis]

    def _fresh(self, value: ir.Value, axis: int) -> Cell:
        size = self.dims(value)[axis]
        if isinstance(size, int):
            return Cell(size) if size > 0 else Cell(0, Reason("it is empty"))
        why = Reason("its size is known at run time only", open=True)
        if size is None:
            return Cell(None, why)
        return self._named.setdefault(self._names.get(size, size), Cell(None, why))

    def enter(self, node: ir.Node) -> None:
        """From now on it is this node that asks."""
        self._node = node
        self._unifier.node = node.name or node.outputs[0].name or ""
        self._refine(node)
        self._spoken.clear()
        self._held.clear()
        self._indices.clear()

    def _refine(self, node: ir.Node) -> None:
        """Find shapes that were left open, if more is known of the inputs than there was."""
        dims = [self.shape(value) for value in node.outputs]
        if all(shape is not None and all(isinstance(d, int) for d in shape) for shape in dims):
            return
        spec = spec_of(node)
        listed = spec is not None and spec.dims_input is not None
        known = any(
            value in self._refined or self.sizes.numbers(value) is not None for value in node.inputs if value
        )
        if listed or known or None in dims:
            for value, found in refined(node, self, self._small, self.sizes.elements, self._extents).items():
                self._refined[value] = _merged(found, self.shape(value))

    def _extents(self, value: ir.Value) -> list[int | Layout]:
        """The dimensions of a value, by number or by the axis of unknown size."""
        found = [self.layout(value, axis) for axis in range(len(self.dims(value)))]
        return [layout if layout.size is None else layout.size for layout in map(layouts.walk, found)]

    def _small(self, value: ir.Value) -> Array | None:
        content = self.constant(value)
        return content if content is not None and content.size <= 64 and content.dtype.kind in "iu" else None

    def leave(self, moved: Iterable[int]) -> None:
        """Pin what the node did not speak for; ``moved`` are its inputs whose integers moved on."""
        node = self._node
        assert node is not None
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            self._pin_unspoken(value, f"{node.op_type} reads along it")
            if value not in self._indices and index not in moved:
                why = self._reason("its size is used in a computation")
                self.sizes.stays(value, why, self._held.get(value, ()))
        for value in node.outputs:
            self._pin_unspoken(value, f"{node.op_type} makes it anew")

    def _pin_unspoken(self, value: ir.Value, why: str) -> None:
        for axis in range(len(self.dims(value))):
            if (value, axis) not in self._spoken:
                self.pin(self.layout(value, axis), why)

    def pin_all(self, value: ir.Value, why: str, *, interface: bool = False) -> None:
        """Pin every axis of a value."""
        for axis in range(len(self.dims(value))):
            self._unifier.pin(self.layout(value, axis), Reason(why, value.name or "", interface))

    def _reason(self, why: str) -> Reason:
        return Reason(why, self._unifier.node)

    def survey(self) -> Survey:
        """What was collected; to be called once, at the end."""
        parts = [part for each in self._attributes for part in _layouts(each.content)]
        parts += [part for each in self._lengths for part in each.parts]
        parts += [sum_.layout for sum_ in self._sums] + [frozen.layout for frozen in self._frozen]
        for layout in (*parts, *(pick.layout for pick in self._picks)):
            if layout.size is None:
                self._unifier.pin(layout, Reason("its size is known at run time only"))
        return Survey(
            self._axes,
            tuple(self._weights),
            tuple(self._sums),
            tuple(self._attributes),
            tuple(self._lengths),
            tuple(self._frozen),
            tuple(self._picks),
            self.sizes.settle(),
        )


def _ours(layout: AnyLayout) -> Layout:
    assert isinstance(layout, Layout)
    return layout


def _layouts(content: Layout | tuple[Layout | int, ...]) -> list[Layout]:
    parts = content if isinstance(content, tuple) else (content,)
    return [part for part in parts if not isinstance(part, int)]


def _merged(found: Dims, known: Dims | None) -> Dims:
    """Sizes that were found, and where none was the name that is known."""
    if known is None or len(known) != len(found):
        return found
    return tuple(old if new is None else new for new, old in zip(found, known, strict=True))


def _runs(places: npt.NDArray[np.generic]) -> list[tuple[int, int]]:
    """Consecutive indices as ``(start, stop)``."""
    if places.size == 0:
        return []
    breaks = np.flatnonzero(np.diff(places.astype(np.int64)) != 1) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [places.size]])
    return [(int(places[a]), int(places[b - 1]) + 1) for a, b in zip(starts, stops, strict=True)]
