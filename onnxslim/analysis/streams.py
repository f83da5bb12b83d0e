"""Streams: values whose channels may be scaled together, because constants around them take it back.

Where every producer of a value multiplies by a constant per channel and every reader does so as well, numbers
per channel may move between the constants: ``w2 f(w1 x) = (w2 / s) f(s w1 x)`` for positively homogeneous f
(Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1).
A sum joins the streams of its operands, so a residual branch is one stream with all that is added to it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes
from onnxslim.model import edit
from onnxslim.ops.attributes import int_of
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import OpSpec

__all__ = ["Part", "Stream", "find_streams"]


@dataclass(frozen=True)
class Part:
    """A constant whose slices are multiplied when the channels of a stream are.

    Attributes:
        value: the constant, of floats; nobody else reads it.
        view: the shape in which it is seen: reshape it to this.
        factors: the shape of the channels' factors, to be broadcast to ``view``.
        divides: whether it is divided by the factors instead: it undoes them.
    """

    value: ir.Value
    view: tuple[int, ...]
    factors: tuple[int, ...]
    divides: bool = False


@dataclass(frozen=True)
class Stream:
    """Values whose channels are scaled alike.

    Attributes:
        channels: how many.
        values: with the axis of the channels, counted from the front.
        parts: the constants to change; some divide, some multiply.
    """

    channels: int
    values: tuple[tuple[ir.Value, int], ...]
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """That of the first value."""
        return self.values[0][0].name or ""


def find_streams(graph: ir.Graph, shapes: Shapes) -> list[Stream]:
    """The streams of a graph, in its order; no two share a slice of a constant.

    Args:
        shapes: of the model; where a rank or a number of channels is unknown, there is no stream.

    Example:
        >>> import onnx.parser
        >>> from onnxslim.analysis.shapes import infer
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,2] x) => (float[1,3] y) <float[2,4] a = {1,2,3,4,5,6,7,8},
        ...     float[4,3] b = {1,2,3,4,5,6,7,8,9,10,11,12}>
        ...     { h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }'''))
        >>> [stream] = find_streams(model.graph, infer(model))
        >>> stream.channels, [(value.name, axis) for value, axis in stream.values]
        (4, [('h', 1), ('r', 1)])
        >>> [(part.value.name, part.divides) for part in stream.parts]
        [('a', False), ('b', True)]
    """
    return list(_Finder(graph, shapes).streams())


@dataclass(frozen=True)
class _Product:
    """A node that multiplies a constant weight of two axes or more, and nothing else, with its input 0.

    Attributes:
        axis: of the weight's output channels, 0 or 1; its input channels lie along the other.
        channels: of the values around it: 1 beside filters, -1 beside matrices.
    """

    node: ir.Node
    weight: ir.Value
    shape: tuple[int, ...]
    axis: int
    groups: int
    bias: ir.Value | None

    @classmethod
    def of(cls, node: ir.Node, spec: OpSpec) -> _Product | None:
        role = spec.quant
        if role is None or role.weight != 1 or role.integer or role.weight_axis is None:
            return None
        present = {i for i, value in enumerate(node.inputs) if value is not None}
        axis, weight = role.weight_axis(node), node.inputs[1] if len(node.inputs) > 1 else None
        if axis is None or weight is None or not present <= {0, 1, role.bias} or not _is_float(weight):
            return None
        shape = tuple(weight.shape.numpy()) if weight.shape is not None else ()
        if len(shape) < 2 or int_of(node, "transA", 0) or not -2 <= axis <= 1:
            return None
        if axis < 0 and len(shape) > 2:  # a stack of matrices
            return None
        bias = node.inputs[role.bias] if role.bias is not None and role.bias in present else None
        return cls(node, weight, shape, axis % len(shape), int_of(node, "group", 1), bias)

    @property
    def channels(self) -> int:
        return 1 if len(self.shape) > 2 else -1

    @property
    def depthwise(self) -> bool:
        """Whether each channel of the output is made of the same one of the input."""
        return self.groups > 1 and self.shape[:2] == (self.groups, 1)

    def part(self, axis: int, divides: bool) -> tuple[int, Part]:
        """The number of channels along an axis of the weight, and how they scale it."""
        first, second, rest = *self.shape[:2], math.prod(self.shape[2:])
        if axis == 0:
            return first, Part(self.weight, (first, second * rest), (first, 1), divides)
        view = (self.groups, first // self.groups, second, rest)
        return self.groups * second, Part(self.weight, view, (self.groups, 1, second, 1), divides)


@dataclass
class _Finder:
    """Joins values by the operators between them; fixes what does not fit, with all that it is joined to."""

    graph: ir.Graph
    shapes: Shapes
    axes: dict[ir.Value, int] = field(default_factory=dict)
    leaders: dict[ir.Value, ir.Value] = field(default_factory=dict)
    fixed: set[ir.Value] = field(default_factory=set)
    parts: dict[ir.Value, list[Part]] = field(default_factory=lambda: defaultdict(list))

    def streams(self) -> Iterator[Stream]:
        self.fixed.update((*self.graph.inputs, *self.graph.outputs))
        self._place_axes()
        for node in self.graph:
            self._join(node)
        members: dict[ir.Value, list[ir.Value]] = defaultdict(list)
        for value in self.axes:
            members[self._leader(value)].append(value)
        fixed = {self._leader(value) for value in self.fixed}
        for leader, values in members.items():
            parts = tuple(part for value in values for part in self.parts[value])
            channels = self._extent(leader)
            if leader not in fixed and channels and {part.divides for part in parts} == {True, False}:
                yield Stream(channels, tuple((value, self.axes[value]) for value in values), parts)

    def _place_axes(self) -> None:
        """Where the channels of values lie: products and normalizations know, the others hand it on."""
        nodes = [(node, spec) for node in self.graph if (spec := spec_of(node)) is not None]
        for node, spec in nodes:
            product = _Product.of(node, spec)
            if product is not None:
                self._place(node.inputs[0], product.channels)
                self._place(node.outputs[0], product.channels)
            elif spec.affine is not None:
                self._place(node.outputs[0], spec.affine(node))
        for node, spec in (*nodes, *reversed(nodes)):
            if spec.homogeneous is not None:
                around = [node.outputs[0], *(node.inputs[i] for i in spec.homogeneous(node))]
                known = next((value for value in around if value in self.axes), None)
                for value in around if known is not None else ():
                    self._place(value, self._from_behind(known) if spec.elementwise else 1)

    def _place(self, value: ir.Value | None, axis: int) -> None:
        rank = self._rank(value)
        if value is not None and value not in self.axes and rank is not None and -rank <= axis < rank:
            self.axes[value] = axis % rank

    def _rank(self, value: ir.Value | None) -> int | None:
        shape = None if value is None else self.shapes.shape(value)
        return None if shape is None else len(shape)

    def _from_behind(self, value: ir.Value | None) -> int:
        return 0 if value is None else self.axes[value] - (self._rank(value) or 0)

    def _extent(self, value: ir.Value | None) -> int | None:
        """The number of channels of a value that has some, if it is known."""
        if value is None or value not in self.axes:
            return None
        dim = (self.shapes.shape(value) or ())[self.axes[value]]
        return dim if isinstance(dim, int) and dim > 1 else None

    def _join(self, node: ir.Node) -> None:
        """Couple what the node couples, and fix every other value that it touches."""
        spec = spec_of(node)
        free: set[ir.Value | None] = set()
        if spec is not None and (product := _Product.of(node, spec)) is not None:
            free = self._join_product(product)
        elif spec is not None and spec.homogeneous is not None:
            free = self._join_operands(node, spec, tuple(spec.homogeneous(node)))
        elif spec is not None and spec.affine is not None:
            free = self._join_affine(node, spec.affine(node))
        touched = [*node.inputs, *node.outputs]
        touched += [v for inner in edit.subgraphs(node) for each in inner.all_nodes() for v in each.inputs]
        self.fixed.update(value for value in touched if value is not None and value not in free)

    def _join_product(self, product: _Product) -> set[ir.Value | None]:
        node = product.node
        data, result = node.inputs[0], node.outputs[0]
        free: set[ir.Value | None] = set()
        if data is None:
            return free
        if product.depthwise:
            bias = self._vector(product.bias, result)
            if self._extent(data) == self._extent(result) == product.groups and bias is not None:
                self._unite(data, result)
                self.parts[result] += bias
                free |= {data, result}
            return free
        channels, divided = product.part(1 - product.axis, True)
        if self._fits(data, channels, product.channels):
            self.parts[data].append(divided)
            free.add(data)
        channels, scaled = product.part(product.axis, False)
        bias = self._vector(product.bias, result)
        if self._fits(result, channels, product.channels) and bias is not None:
            self.parts[result] += [scaled, *bias]
            free.add(result)
        return free

    def _fits(self, value: ir.Value, channels: int, axis: int) -> bool:
        rank = self._rank(value)
        return self._extent(value) == channels and rank is not None and self.axes[value] == axis % rank

    def _join_operands(self, node: ir.Node, spec: OpSpec, indices: tuple[int, ...]) -> set[ir.Value | None]:
        result, operands = node.outputs[0], [node.inputs[i] for i in indices]
        variable = [value for value in operands if value is not None and edit.constant_value(value) is None]
        constants = [value for value in operands if value is not None and value not in variable]
        around = [result, *variable]
        channels = self._extent(result)
        if not variable or channels is None or any(self._extent(value) != channels for value in around):
            return set()
        places = {self._from_behind(value) if spec.elementwise else self.axes[value] for value in around}
        if len(places) > 1 or (not spec.elementwise and places != {1}):
            return set()
        vectors = [self._vector(value, result) for value in constants]
        if any(vector is None for vector in vectors):
            return set()
        for value in variable:
            self._unite(value, result)
        self.parts[result] += [part for vector in vectors if vector is not None for part in vector]
        return set(around)

    def _join_affine(self, node: ir.Node, axis: int) -> set[ir.Value | None]:
        result, rank = node.outputs[0], self._rank(node.outputs[0])
        scale, bias = (*node.inputs[1:3], None, None)[:2]
        if rank is None or axis % rank != self.axes.get(result) or (axis != 1 and axis % rank != rank - 1):
            return set()
        vectors = [self._vector(value, result) for value in (scale, bias)]
        if scale is None or vectors[0] is None or vectors[1] is None:
            return set()
        self.parts[result] += [*vectors[0], *vectors[1]]
        return {result}

    def _vector(self, value: ir.Value | None, beside: ir.Value) -> list[Part] | None:
        """How a constant with one number per channel scales with ``beside``; None where it cannot.

        A single axis is that of the channels, more are aligned from behind, as in broadcasting.
        """
        if value is None:
            return []
        channels = self._extent(beside)
        if channels is None or not _is_float(value) or value.shape is None:
            return None
        shape = tuple(value.shape.numpy())
        axis = self._from_behind(beside) + len(shape)
        producer = beside.producer()
        spec = None if producer is None else spec_of(producer)
        if len(shape) == 1 and (spec is None or not spec.elementwise):
            axis = 0
        if not 0 <= axis < len(shape) or shape[axis] != channels:
            return None
        return [Part(value, shape, tuple(n if i == axis else 1 for i, n in enumerate(shape)))]

    def _leader(self, value: ir.Value) -> ir.Value:
        while (above := self.leaders.get(value, value)) is not value:
            self.leaders[value] = self.leaders.get(above, above)
            value = above
        return value

    def _unite(self, one: ir.Value, other: ir.Value) -> None:
        self.leaders[self._leader(one)] = self._leader(other)


def _is_float(value: ir.Value) -> bool:
    """Whether it is an initializer of float32 that one input reads."""
    return (
        value.is_initializer()
        and edit.constant_value(value) is not None
        and value.dtype == ir.DataType.FLOAT
        and len(value.uses()) == 1
        and not value.is_graph_output()
    )
