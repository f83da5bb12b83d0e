"""What a model would cost with some of its channels gone, without making it.

The elements of a tensor shrink by the share that is left of each of its axes, and so do the products and the
time of the node that computes with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels
from onnxslim.analysis.cost import cost, summary
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model.edit import constant_value
from onnxslim.ops.registry import spec_of

__all__ = ["Widths", "macs_for", "shapes_for", "sized"]

Array = npt.NDArray[Any]
_Axis = tuple[str, int]


def shapes_for(model: ir.Model, feed: Mapping[str, Any] | None) -> Shapes:
    """Shapes with inputs of the sizes that they have in a feed; without one, for a batch of one."""
    if feed is None:
        return infer(model, batch=1)
    known = {value: value.shape for value in model.graph.inputs if value.name in feed}
    try:
        for value in known:
            value.shape = ir.Shape(np.shape(feed[value.name or ""]))
        return infer(model)
    finally:
        for value, shape in known.items():
            value.shape = shape


def macs_for(model: ir.Model, feed: Mapping[str, Any] | None) -> int | None:
    """Multiply-accumulates on a feed, of all nodes whose sizes are known; None where there are none."""
    return cost(model, shapes_for(model, feed)).macs or None


@dataclass
class Widths:
    """A model and what is removed of it so far.

    Args:
        channels: what can be removed.
        feed: one input, whose sizes the costs are for; default a batch of one, as far as sizes are known.
        seconds: by the name of a node's first output: what the node takes at full width, and how much of
            that stays however narrow it gets.
    """

    model: ir.Model
    channels: Channels
    feed: Mapping[str, Any] | None = None
    seconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shapes = shapes_for(self.model, self.feed)
        self._members: dict[_Axis, list[tuple[str, Any]]] = {}
        self._touched: dict[str, set[_Axis]] = {}
        for group in self.channels.groups:
            for member in group.members:
                if member.role != "shape":
                    axis = (member.value, member.axis)
                    self._members.setdefault(axis, []).append((group.key, member))
                    self._touched.setdefault(group.key, set()).add(axis)
        self._axes: dict[str, list[_Axis]] = {}
        for axis in self._members:
            self._axes.setdefault(axis[0], []).append(axis)
        self._values: dict[str, ir.Value] = {
            value.name or "": value
            for value in (
                *self.model.graph.inputs,
                *self.model.graph.initializers.values(),
                *(value for node in self.model.graph for value in node.outputs),
            )
        }
        self._sizes = {axis: self._size(axis) for axis in self._members}
        self._share: dict[_Axis, float] = {}
        self.removed: dict[str, npt.NDArray[np.int64]] = {}
        self._parts = {kind: list(self._terms(kind)) for kind in ("macs", "params", "latency", "channels")}
        self._fixed = dict.fromkeys(self._parts, 0.0)
        self._split()

    def remove(self, key: str, atoms: Iterable[int]) -> None:
        """Let these atoms of a group, and no others of it, be gone."""
        self.removed[key] = np.fromiter(atoms, np.int64)
        for axis in self._touched.get(key, ()):
            self._share[axis] = self._left(axis)

    def total(self, kind: str) -> float:
        """``macs``, ``params``, ``latency`` (seconds) or ``channels`` of what is left.

        Bytes go with ``params``.
        """
        if kind == "channels":
            return sum(g.channels * (g.size - len(self.removed.get(g.key, ()))) for g in self.channels.groups)
        return self._fixed[kind] + sum(
            amount * (floor + (1 - floor) * math.prod(self._share.get(axis, 1.0) for axis in axes))
            for amount, floor, axes in self._parts[kind]
        )

    def total_at_full(self, kind: str) -> float:
        """The same with nothing removed."""
        if kind == "channels":
            return float(sum(group.channels * group.size for group in self.channels.groups))
        return self._fixed[kind] + sum(amount for amount, _, _ in self._parts[kind])

    def shares(self) -> dict[str, float]:
        """What is left of the work of each node, by the name of its first output."""
        return {
            node.outputs[0].name or "": math.prod(self._share.get(axis, 1.0) for axis in self._scaling(node))
            for node in self.model.graph
            if node.outputs
        }

    def _left(self, axis: _Axis) -> float:
        size = self._sizes[axis]
        if not size:
            return 1.0
        kept = np.ones(size, np.bool_)
        for key, member in self._members[axis]:
            gone = self.removed.get(key)
            if gone is not None and len(gone):
                kept[member.indices(gone)] = False
        return float(kept.mean())

    def _size(self, axis: _Axis) -> int:
        value = self._values.get(axis[0])
        dims = None if value is None else self._shapes.shape(value)
        if dims is None or not -len(dims) <= axis[1] < len(dims):
            return 0
        dim = dims[axis[1]]
        return dim if isinstance(dim, int) else 0

    def _terms(self, kind: str) -> Iterable[tuple[float, float, tuple[_Axis, ...]]]:
        """An amount, the share of it that stays in any case, and the axes that the rest shrinks with."""
        if kind == "params":
            for name, value in self.model.graph.initializers.items():
                if value.const_value is not None:
                    yield float(value.const_value.size), 0.0, tuple(self._axes.get(name, ()))
        elif kind != "channels":
            macs = self._macs() if kind == "macs" else {}
            for node in self.model.graph:
                name = node.outputs[0].name or "" if node.outputs else ""
                amount, floor = (
                    (macs.get(name, 0.0), 0.0) if kind == "macs" else self.seconds.get(name, (0.0, 0.0))
                )
                if amount:
                    yield amount, floor, tuple(self._scaling(node))

    def _split(self) -> None:
        """What no group touches is added up once."""
        for kind, terms in self._parts.items():
            self._fixed[kind] = sum(amount for amount, _, axes in terms if not axes)
            self._parts[kind] = [term for term in terms if term[2]]

    def _macs(self) -> dict[str, float]:
        found = {}
        for node in self.model.graph:
            spec = spec_of(node)
            if spec is not None and spec.macs is not None and node.outputs:
                try:
                    count = spec.macs(node, self._shapes.shape)
                except (ArithmeticError, IndexError, TypeError, ValueError):
                    continue
                found[node.outputs[0].name or ""] = float(count or 0)
        return found or {"": float(cost(self.model, self._shapes).macs)}

    def _scaling(self, node: ir.Node) -> Iterable[_Axis]:
        """The axes whose sizes are factors of what the node computes: those of its weight, or of a product of
        two activations all of the first and the last of the second, or of its output."""
        spec = spec_of(node)
        weight = spec.quant.weight if spec is not None and spec.quant is not None else None
        inputs = node.inputs
        if weight is not None and len(inputs) > weight and inputs[weight] is not None:
            value = inputs[weight]
            assert value is not None
            if constant_value(value) is not None:
                return self._axes.get(value.name or "", ())
            first, dims = inputs[0], self._shapes.shape(value)
            columns = self._axes.get(value.name or "", ())
            last = [axis for axis in columns if dims is not None and axis[1] % len(dims) == len(dims) - 1]
            return [*(self._axes.get(first.name or "", ()) if first is not None else ()), *last]
        return self._axes.get(node.outputs[0].name or "", ())


def sized(model: ir.Model, feed: Mapping[str, Any]) -> dict[str, Any]:
    """The summary, with products counted for the sizes of a feed where they are not known otherwise."""
    found = summary(model)
    return found if found["macs"] is not None else {**found, "macs": macs_for(model, feed)}
