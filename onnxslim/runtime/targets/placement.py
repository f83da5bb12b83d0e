"""Where integers pay: the cheapest choice of integer kernels for a whole graph.

Every unit is computed in floats or in integers, each at its cost; wherever the two meet, a tensor has to be
converted, at the cost of its elements.  The best choice is a minimum cut: units on the source's side are
integer, an edge that is cut is a cost that is paid.

Rounding costs accuracy, so a product has to gain more than a few ten-thousandths of the whole.

Without costs, everything that the rules allow and that has a weight becomes integer, with as few conversions
as possible.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.analysis.mincut import min_cut
from onnxslim.analysis.shapes import Shapes
from onnxslim.ops.registry import spec_of
from onnxslim.runtime.targets.target import Cost, Target
from onnxslim.runtime.targets.units import Unit, elements
from onnxslim.runtime.targets.work import Work

__all__ = ["Placement", "Times", "place"]

_Edge = tuple[Hashable, Hashable, float]
_INTEGER, _FLOAT = "integer", "float"
_WORTHWHILE = 2e-4  # of the time of all units: a product that gains less is not worth the rounding
_CONVERSION = 1e-3  # without costs: of a conversion, when a unit with a weight counts as 1


@dataclass(frozen=True)
class Placement:
    """Which units become integer kernels, and why the other ones with a weight do not."""

    units: tuple[Unit, ...]
    reasons: Mapping[ir.Node, str]


Times = Mapping[str, tuple[float, float]]  # output of a unit -> nanoseconds in float, and in integers


def place(
    units: Sequence[Unit],
    target: Target,
    shapes: Shapes,
    times: Times = MappingProxyType({}),
    penalties: Mapping[str, float] = MappingProxyType({}),
) -> Placement:
    """Choose the units that are worth the conversions around them.

    Args:
        units: what could be an integer kernel, of one graph.
        target: what the two forms and the conversions cost.
        shapes: of the graph's values; what is unknown is guessed.
        times: what units were measured to take; they come before the target's costs.
        penalties: nanoseconds that a unit's integers must gain beside, since they cost accuracy.
    """
    plan = _Plan(units, target, shapes, times, penalties)
    chosen = min_cut(plan.edges(), _INTEGER, _FLOAT)
    kept = tuple(unit for unit in units if unit in chosen)
    reasons = {}
    for unit in units:
        if unit not in chosen and unit.weight is not None:
            slow, fast = plan.float_time(unit), plan.integer_time(unit)
            what = f"{unit.fusion.kernel} would not pay"
            if plan.penalty(unit) and fast < slow:
                what += " for the accuracy that it costs"
            reasons[unit.node] = (
                f"{what}: {slow / 1e3:.1f} us in float, {fast / 1e3:.1f} us in integers and the conversions "
                "around it"
            )
    return Placement(kept, reasons)


class _Plan:
    """The costs of one graph as the edges of a cut."""

    def __init__(
        self,
        units: Sequence[Unit],
        target: Target,
        shapes: Shapes,
        times: Times,
        penalties: Mapping[str, float],
    ) -> None:
        self._units, self._target, self._shapes = units, target, shapes
        self._times, self._penalties = times, penalties
        self._producers = {unit.output: unit for unit in units}
        self._unit_nodes = {unit.node for unit in units}
        self._works = {unit: unit.work(shapes, target.block) for unit in units}
        self._worthwhile = _WORTHWHILE * sum(map(self.float_time, units)) if target.measured else 0.0

    def float_time(self, unit: Unit) -> float:
        """Of the unit's float form."""
        if (measured := self._times.get(unit.output.name or "")) is not None:
            return measured[0]
        if not self._target.measured:
            return float(unit.weight is not None)
        return 0.0 if _is_free(unit) else unit.fusion.float_cost.of(self._works[unit])

    def integer_time(self, unit: Unit) -> float:
        """Of the unit's integer form."""
        if (measured := self._times.get(unit.output.name or "")) is not None:
            return measured[1]
        return unit.fusion.integer_cost.of(self._works[unit])

    def penalty(self, unit: Unit) -> float:
        """What the integer form must gain beside, for the accuracy that it costs."""
        return self._penalties.get(unit.output.name or "", 0.0)

    def edges(self) -> Iterator[_Edge]:
        """All costs: of both forms of every unit, and of every conversion."""
        readers: dict[ir.Value, list[Unit]] = defaultdict(list)
        inner = set()  # reads that are a unit's own: of its activations, and of what it absorbs
        for unit in self._units:
            yield _INTEGER, unit, self.float_time(unit)
            rounding = self._worthwhile if unit.weight is not None else 0.0
            yield unit, _FLOAT, self.integer_time(unit) + rounding + self.penalty(unit)
            if not _may_begin(unit):
                sources = (self._producers.get(value) for value in unit.activations)
                yield from ((unit, self._choice(source), math.inf) for source in sources)
            for value in unit.activations:
                readers[value].append(unit)
                inner.add((value, unit.node))
        for value in {**readers, **self._producers}:
            producer = self._producers.get(value)
            quantized = self._choice(producer)
            cost = self._conversion(self._target.quantize, value)
            if producer is not None and producer.fusion.output == "same":
                cost = math.inf  # the runtime moves a quantizer in front of what only moves values
            yield from _quantize(value, quantized, readers[value], cost)
            if quantized != _FLOAT:
                floats = value.is_graph_output() or any(
                    (value, user) not in inner for user, _ in value.uses()
                )
                cost = self._conversion(self._target.dequantize, value)
                yield from _dequantize(value, quantized, readers[value], floats, cost)

    @staticmethod
    def _choice(producer: Unit | None) -> Hashable:
        """What decides whether a value comes as integers: the choice for its producer, or nothing."""
        return producer if producer is not None and producer.fusion.output != "float" else _FLOAT

    def _conversion(self, cost: Cost, value: ir.Value) -> float:
        """Of the numbers and, between two blocked kernels, of bringing them out of and into their layouts."""
        if not self._target.measured:
            return _CONVERSION
        work = Work(output=elements(value, self._shapes))
        layouts = (self._target.float_layout, self._target.integer_layout)
        return cost.of(work) + sum(layout.of(work) for layout in layouts if self._is_blocked(value))

    def _is_blocked(self, value: ir.Value) -> bool:
        """Whether both forms keep a value in a layout of their own."""
        shape, unit = self._shapes.shape(value), self._producers.get(value)
        maker = value.producer() if unit is None else unit.node  # behind the unit's node may stand its Relu
        if maker is None or shape is None or len(shape) < 4:
            return False
        return self._keeps_layout(maker) and any(self._keeps_layout(user) for user, _ in value.uses())

    def _keeps_layout(self, node: ir.Node) -> bool:
        """Of what is no unit, only products do: a sum with a constant is computed in the plain layout."""
        if not self._target.is_blocked(node.op_type):
            return False
        spec = spec_of(node)
        return node in self._unit_nodes or (
            spec is not None and spec.quant is not None and spec.quant.weight is not None
        )


def _may_begin(unit: Unit) -> bool:
    """Whether the unit is worth quantizing floats for.

    What has no weight only continues an island: by itself it gains little, loses accuracy (a variance, a
    mask) and is slow in a layout that is not its own.  What moves values may come first: the runtime itself
    moves a quantizer in front of it.
    """
    return unit.weight is not None or (unit.fusion.output == "same" and not unit.fusion.blocked)


def _is_free(unit: Unit) -> bool:
    """Whether another operator absorbs the float form of the unit: one that nobody else reads."""
    for value in unit.activations:
        producer = value.producer()
        if producer is None or len(value.uses()) != 1 or value.is_graph_output():
            continue
        if producer.op_type in unit.fusion.free_behind and producer.domain == "":
            return True
    return False


def _quantize(value: ir.Value, producer: Hashable, readers: Sequence[Unit], cost: float) -> Iterator[_Edge]:
    """``cost`` is paid once when the producer is float and any reader is integer."""
    if readers:
        yield ("quantize", value), producer, cost
        for unit in readers:
            yield unit, ("quantize", value), math.inf


def _dequantize(
    value: ir.Value, producer: Hashable, readers: Sequence[Unit], floats: bool, cost: float
) -> Iterator[_Edge]:
    """``cost`` is paid once when the producer is integer and any reader is float."""
    yield producer, ("dequantize", value), cost
    for unit in readers:
        yield ("dequantize", value), unit, math.inf
    if floats:
        yield ("dequantize", value), _FLOAT, math.inf
