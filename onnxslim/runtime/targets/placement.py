"""Where integers pay: the cheapest choice of integer kernels for a whole graph.

Every unit is computed in floats or in integers, each at its cost; wherever the two meet, a tensor has to be
converted, at the cost of its elements.  The best choice is a minimum cut: units on the source's side are
integer, an edge that is cut is a cost that is paid.
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
from onnxslim.runtime.targets.target import Target
from onnxslim.runtime.targets.units import Unit, elements

__all__ = ["Placement", "Times", "place"]

_Edge = tuple[Hashable, Hashable, float]
_INTEGER, _FLOAT = "integer", "float"


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
    costs = {unit: _costs(unit, shapes, times) for unit in units}
    dear = {
        unit: (slow, fast + penalties.get(unit.output.name or "", 0.0))
        for unit, (slow, fast) in costs.items()
    }
    chosen = min_cut(_edges(dear, target, shapes), _INTEGER, _FLOAT)
    kept = tuple(unit for unit in units if unit in chosen)
    reasons = {}
    for unit, (slow, fast) in costs.items():
        if unit not in chosen and unit.weight is not None:
            what = f"{unit.fusion.kernel} would not pay"
            if dear[unit][1] > fast:
                what += " for the accuracy that it costs"
            reasons[unit.node] = (
                f"{what}: {slow / 1e3:.1f} us in float, {fast / 1e3:.1f} us in integers and the conversions "
                "around it"
            )
    return Placement(kept, reasons)


def _costs(unit: Unit, shapes: Shapes, times: Times) -> tuple[float, float]:
    """Nanoseconds in float, and in integers."""
    measured = times.get(unit.output.name or "")
    if measured is not None:
        return measured
    return unit.time(unit.fusion.float_cost, shapes), unit.time(unit.fusion.integer_cost, shapes)


def _edges(costs: Mapping[Unit, tuple[float, float]], target: Target, shapes: Shapes) -> Iterator[_Edge]:
    producers = {unit.output: unit for unit in costs}
    readers: dict[ir.Value, list[Unit]] = defaultdict(list)
    inner = set()  # reads that are a unit's own: of its activations, and of what it absorbs
    for unit, (slow, fast) in costs.items():
        yield _INTEGER, unit, slow
        yield unit, _FLOAT, fast
        if unit.fusion.output == "same":
            source = producers.get(unit.activations[0])
            extra = unit.time(unit.fusion.alone_cost, shapes) - unit.time(unit.fusion.integer_cost, shapes)
            yield unit, _integer(source), max(extra, 0.0)
        for value in unit.activations:
            readers[value].append(unit)
            inner.add((value, unit.node))
    for value in {**readers, **producers}:
        size = elements(value, shapes)
        producer = producers.get(value)
        quantized = _integer(producer)
        cost = target.quantize.of(outputs=size)
        if producer is not None and producer.fusion.output == "same":
            cost = math.inf  # the runtime moves a quantizer in front of what only moves values
        yield from _quantize(value, quantized, readers[value], cost)
        if quantized != _FLOAT:
            floats = value.is_graph_output() or any((value, user) not in inner for user, _ in value.uses())
            yield from _dequantize(
                value, quantized, readers[value], floats, target.dequantize.of(outputs=size)
            )


def _integer(producer: Unit | None) -> Hashable:
    """The choice that decides whether a value comes as integers: its producer's, or none."""
    return producer if producer is not None and producer.fusion.output != "float" else _FLOAT


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
