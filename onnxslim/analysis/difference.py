"""What differs between two models, by their descriptions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from onnxslim.analysis.inspection import Inspection, Interface, Stored

__all__ = ["Change", "Difference", "TensorChanges", "difference"]

T = TypeVar("T")

_NAMED = 20  # tensors of each kind that are named


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """A thing before and after; None where it is not there, or not known."""

    before: T | None
    after: T | None


@dataclass(frozen=True, slots=True)
class TensorChanges:
    """Stored tensors of one kind of change.

    Attributes:
        count: how many there are.
        bytes: of all of them together, before and after.
        named: the largest twenty, name -> what was and what is.
    """

    count: int
    bytes: Change[int]
    named: Mapping[str, Change[Stored]]


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not the same in two models; mappings hold what changed and nothing else.

    Attributes:
        inputs, outputs: name -> the interface before and after.
        opsets: domain -> version.
        sizes: ``nodes``, ``params``, ``bytes``, ``macs`` (None where some are not known), ``activations``
            (peak bytes, None likewise), ``tensors`` (that are stored), all of them always.
        bytes_by_dtype: type of stored tensors -> bytes.
        ops: operator -> count, the largest change first.
        quantization: the state in a word, where it changed.
        quantized: the same in numbers: the fields of ``Quantization`` that changed.
        added, removed, changed: stored tensors by name; ``changed`` are of another shape or type.  Contents
            are not compared.
    """

    inputs: Mapping[str, Change[Interface]]
    outputs: Mapping[str, Change[Interface]]
    opsets: Mapping[str, Change[int]]
    sizes: Mapping[str, Change[int]]
    bytes_by_dtype: Mapping[str, Change[int]]
    ops: Mapping[str, Change[int]]
    quantization: Change[str] | None
    quantized: Mapping[str, Change[Any]]
    added: TensorChanges
    removed: TensorChanges
    changed: TensorChanges

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


def difference(a: Inspection, b: Inspection) -> Difference:
    """What changed from model ``a`` to model ``b``; values are matched by name.

    Example:
        >>> import onnx.parser
        >>> from onnxslim.analysis.inspection import inspect
        >>> text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = %s(x) }'
        >>> a, b = (inspect(onnx.parser.parse_model(text % op)) for op in ("Relu", "Neg"))
        >>> found = difference(a, b)
        >>> found.inputs, {op: (change.before, change.after) for op, change in found.ops.items()}
        ({}, {'Relu': (1, 0), 'Neg': (0, 1)})
    """
    tensors = _changes(a.tensors, b.tensors)
    added = {name: change for name, change in tensors.items() if change.before is None}
    removed = {name: change for name, change in tensors.items() if change.after is None}
    ops = _counts(a.ops, b.ops)
    details = [dataclasses.asdict(each.quantized) for each in (a, b)]
    return Difference(
        inputs=_changes(*({port.name: port for port in each.inputs} for each in (a, b))),
        outputs=_changes(*({port.name: port for port in each.outputs} for each in (a, b))),
        opsets=_changes(a.opsets, b.opsets),
        sizes={name: Change(_sizes(a)[name], _sizes(b)[name]) for name in _sizes(a)},
        bytes_by_dtype=_counts(a.bytes_by_dtype, b.bytes_by_dtype),
        ops=dict(sorted(ops.items(), key=lambda item: -abs((item[1].after or 0) - (item[1].before or 0)))),
        quantization=None if a.quantization == b.quantization else Change(a.quantization, b.quantization),
        quantized=_changes(*details),
        added=_tensors(added),
        removed=_tensors(removed),
        changed=_tensors({n: change for n, change in tensors.items() if n not in added and n not in removed}),
    )


def _changes(a: Mapping[str, T], b: Mapping[str, T]) -> dict[str, Change[T]]:
    names = dict.fromkeys((*a, *b))
    return {name: Change(a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def _counts(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, Change[int]]:
    """Like ``_changes``, for what counts as 0 where it is missing."""
    pairs = {name: (a.get(name, 0), b.get(name, 0)) for name in (*a, *b)}
    return {name: Change(before, after) for name, (before, after) in pairs.items() if before != after}


def _sizes(model: Inspection) -> dict[str, int | None]:
    return {
        "nodes": model.nodes,
        "params": model.params,
        "bytes": model.bytes,
        "macs": None if model.unknown_macs else model.macs,
        "activations": model.activations.peak,
        "tensors": len(model.tensors),
    }


def _tensors(found: Mapping[str, Change[Stored]]) -> TensorChanges:
    def size(change: Change[Stored]) -> int:
        return max(side.bytes for side in (change.before, change.after) if side is not None)

    largest = sorted(found.items(), key=lambda item: -size(item[1]))[:_NAMED]
    return TensorChanges(
        count=len(found),
        bytes=Change(
            sum(change.before.bytes for change in found.values() if change.before),
            sum(change.after.bytes for change in found.values() if change.after),
        ),
        named=dict(largest),
    )
