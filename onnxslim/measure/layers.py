"""Where the noise of a rewritten model is born: signal to noise of each value that both models name.

A value of A is joined with the value of the same name in B or, where B quantizes that one, with what comes
back from the integers, since that is what B goes on with.  Both run with onnxruntime's optimizations off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.extract import extract, named_values
from onnxslim.analysis.shapes import infer
from onnxslim.errors import VerificationError
from onnxslim.measure.differences import Difference
from onnxslim.measure.interface import Interface
from onnxslim.model.edit import subgraphs
from onnxslim.ops.registry import is_dequantize, is_quantize
from onnxslim.runtime.client import RemoteSession, Worker

__all__ = ["Layer", "layer_noise"]

_SLICE_VALUES, _SLICE_BYTES = 64, 64 << 20
_OPEN_DIM = 64  # a dimension that only a run tells
_LABELS = "__labels__"


@dataclass(frozen=True, slots=True)
class Layer:
    """One value that both models compute.

    Attributes:
        value, op: its name, and the operator that computes it in A; ``input`` for an input.
        sqnr_db: of the value in B, against A's.
        drop_db: by how much that is less than the least of the values that it is computed from; None where
            those are equal to A's.
        own_db: the same as ``sqnr_db`` when B computes it from A's own values: the noise that is born here.
    """

    value: str
    op: str
    sqnr_db: float
    drop_db: float | None
    own_db: float

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Twin:
    """What B has for a value of A.

    Attributes:
        name: the value to compare.
        fed: values whose readers can be fed A's value instead -> readers that must not be.
    """

    name: str
    fed: Mapping[str, frozenset[str]]


@dataclass
class _Noise:
    """What was seen of one value: as the models run, and with A's values in front."""

    through: Difference = field(default_factory=Difference)
    own: Difference = field(default_factory=Difference)


def layer_noise(a: ir.Model, b: ir.Model, feeds: Iterable[Mapping[str, Any]], worker: Worker) -> list[Layer]:
    """Compare two models value by value, in the order of A.

    Memory is bounded: values are compared in slices of some 64 MB.

    Args:
        a: the reference.
        b: what became of it.
        feeds: input name -> array; gone through once for each slice.
        worker: where the models run.

    Raises:
        VerificationError: the models have no value in common.
        RuntimeRefused: a model does not run on the feeds.
    """
    twins, noise = _twins(a, b), dict[str, _Noise]()
    for names in _slices(a, twins):
        _compare(a, b, names, twins, feeds, worker, noise)
    if not noise:
        raise VerificationError(
            "the two models have no value in common", hint="compare a model with what was made of it"
        )
    return list(_rows(a, noise))


def _rows(a: ir.Model, noise: Mapping[str, _Noise]) -> Iterator[Layer]:
    reached: dict[ir.Value, float] = {}  # the least ratio up to here

    def row(value: ir.Value, op: str, before: float) -> Iterator[Layer]:
        reached[value] = before
        name = value.name or ""
        if name in noise:
            found = noise[name]
            reached[value] = found.through.sqnr_db
            drop = None if math.isinf(before) else before - found.through.sqnr_db
            yield Layer(name, op, found.through.sqnr_db, drop, found.own.sqnr_db)

    for value in a.graph.inputs:
        yield from row(value, "input", math.inf)
    for node in a.graph:
        before = min((reached[v] for v in node.inputs if v is not None and v in reached), default=math.inf)
        for value in node.outputs:
            yield from row(value, node.op_type, before)


def _twins(a: ir.Model, b: ir.Model) -> dict[str, _Twin]:
    """Name -> what B has for it, in the order of A; what does not depend on the inputs is left out."""
    others, found = named_values(b.graph), dict[str, _Twin]()
    depends = {value for value in a.graph.inputs if not value.is_initializer()}
    for node in a.graph:
        if any(value in depends for value in node.inputs) or any(True for _ in subgraphs(node)):
            depends.update(node.outputs)
    for name, value in named_values(a.graph).items():
        if value in depends and name in others:
            twin = _twin(others[name])
            if twin.name != name or not value.is_graph_input():
                found[name] = twin
    return found


def _twin(value: ir.Value) -> _Twin:
    integer = value.dtype is not None and value.dtype.is_integer()
    quantizers = [node for node, index in value.uses() if is_quantize(node) and index == 0]
    restored = [
        node.outputs[0].name or ""
        for each in ([value] if integer else [node.outputs[0] for node in quantizers])
        for node, index in each.uses()
        if is_dequantize(node) and index == 0
    ]
    fed = {name: frozenset[str]() for name in restored}
    if not integer:
        fed[value.name or ""] = frozenset(node.outputs[0].name or "" for node in quantizers)
    return _Twin(next(iter(restored), value.name or ""), fed)


def _slices(a: ir.Model, twins: Mapping[str, _Twin]) -> Iterator[list[str]]:
    """The names in parts that fit into memory, as far as their sizes are known."""
    values, shapes = named_values(a.graph), infer(a)
    part: list[str] = []
    size = 0
    for name in twins:
        dims = shapes.shape(values[name])
        own = 8 * math.prod(dim if isinstance(dim, int) else _OPEN_DIM for dim in dims or ())
        if part and (size + own > _SLICE_BYTES or len(part) == _SLICE_VALUES):
            yield part
            part, size = [], 0
        part.append(name)
        size += own
    if part:
        yield part


def _compare(
    a: ir.Model,
    b: ir.Model,
    names: Sequence[str],
    twins: Mapping[str, _Twin],
    feeds: Iterable[Mapping[str, Any]],
    worker: Worker,
    noise: dict[str, _Noise],
) -> None:
    """Add what the feeds show of the values ``names`` to ``noise``."""
    compared = [twins[name].name for name in names]
    origin = {fed: name for name, twin in twins.items() for fed in twin.fed}
    part, fed = extract(
        b, compared, {name: keep for twin in twins.values() for name, keep in twin.fed.items()}
    )
    given = {new: origin[name] for name, new in fed.items()}
    inputs = {value.name for value in a.graph.inputs}
    fetched = [name for name in dict.fromkeys((*names, *given.values())) if name not in inputs]
    with (
        worker.load(extract(a, fetched)[0] if fetched else a) as first,
        worker.load(extract(b, compared)[0]) as second,
        worker.load(part) as local,
    ):
        sides = [Interface.of(session) for session in (first, second)]
        for feed in feeds:
            feed = {name: value for name, value in feed.items() if name != _LABELS}
            own, other = sides[0].feed(feed, sides[1]), sides[1].feed(feed, sides[0])
            values = {
                **own,
                **(dict(zip(fetched, _run(first, own, fetched), strict=True)) if fetched else {}),
            }
            through = _run(second, other, compared)
            alone = _run(local, {**other, **{new: values[name] for new, name in given.items()}}, compared)
            for name, twin, one, two in zip(names, compared, through, alone, strict=True):
                reference = values[name]
                if isinstance(reference, np.ndarray) and reference.dtype.kind == "f":
                    found = noise.setdefault(name, _Noise())
                    found.through.add(reference, sides[1].real(twin, one))
                    found.own.add(reference, sides[1].real(twin, two))


def _run(session: RemoteSession, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
    taken = {info.name for info in session.inputs}
    return session.run({name: value for name, value in feed.items() if name in taken}, outputs)
