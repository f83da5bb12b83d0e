"""Which weights are views of other ones: what one operator makes of a stored tensor, bit for bit.

Weights are compared in three steps, so that a hundred thousand of them cost little more than reading them:
by what is cheap to know (type, shape, a few elements), then by a digest that a weight and its views have in
common, then element by element.  Contents are read in chunks.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.constants import tensor_of
from onnxslim.model.hashing import CHUNK, array_of, content_chunks, number_chunks

__all__ = ["View", "find_views"]

Array = npt.NDArray[Any]

_HEAD = 64  # elements that are compared before whole tensors are read
_RANK = 5  # of tensors whose permutations are tried
_ROW = 16  # bytes of a row by which a slice can be looked for, at least
_HITS = 1 << 12  # rows of one weight that start like some other weight, and are looked at
_BASES = 64  # weights of one digest that another one may be a view of; outer graphs come first
_TRIES = 8  # weights that one is compared with element by element, and places that a slice is looked for at
_INTEGERS = [ir.DataType[f"{sign}INT{bits}"] for sign in ("", "U") for bits in (8, 16, 32, 64)]
_FLOATS = [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE]
_TYPES = frozenset([ir.DataType.BOOL, *_INTEGERS, *_FLOATS])
_SCALED = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})  # the runtime folds no arithmetic in 16 bits


@dataclass(frozen=True)
class View:
    """``target`` has the bits of ``op_type(base, *constants)``; ``constants`` are (name, content)."""

    target: ir.Value
    base: ir.Value
    op_type: str
    constants: tuple[tuple[str, Array], ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


class _Weight:
    """A stored tensor and what is known of it without reading it whole."""

    def __init__(self, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        self.value, self.tensor = value, tensor
        self.shape = tuple(int(dim) for dim in tensor.shape.numpy())
        self.type = tensor.dtype

    @functools.cached_property
    def head(self) -> Array:
        return np.array(array_of(self.tensor).reshape(-1)[:_HEAD])

    @functools.cached_property
    def corners(self) -> bytes:
        """The first and the last element, which every permutation keeps."""
        return np.array(array_of(self.tensor).reshape(-1)[[0, -1]]).tobytes()


class _Kind(NamedTuple):
    """A kind of view: keys that a weight and its views share (None: no such view), and the last check."""

    rough: Callable[[_Weight], Hashable | None]
    fine: Callable[[_Weight], Hashable | None]
    view: Callable[[_Weight, _Weight], View | None]


def find_views(
    values: Iterable[ir.Value], sees: Callable[[ir.Value, ir.Value], bool], min_bytes: int = 1024
) -> Iterator[View]:
    """The views among stored ``values``, the earlier ones being the bases where there is a choice.

    1. Reshape: equal content under another shape.
    2. Transpose: the axes in another order.
    3. Neg, Mul: float32 or float64 times minus one or another power of two, without NaN.
    4. Cast: the same numbers in a wider type that holds all of the narrower, without NaN.
    5. Slice: rows of a larger tensor, one after the other, of 16 bytes each or more.

    Args:
        sees: whether the first value can be read in the graph of the second.
        min_bytes: smaller tensors stay, as do outputs of graphs.

    A value is the target of one view at most; a later view may replace the base of an earlier one.
    """
    weights = [
        _Weight(value, tensor)
        for value in values
        if (tensor := tensor_of(value)) is not None
        and tensor.dtype in _TYPES
        and tensor.nbytes >= max(1, min_bytes)
    ]
    for kind in (*_KINDS, None):
        views = _slices(weights, sees) if kind is None else _of_kind(kind, weights, sees)
        found = {view.target: view for view in views}
        yield from found.values()
        weights = [weight for weight in weights if weight.value not in found]


def _of_kind(
    kind: _Kind, weights: Sequence[_Weight], sees: Callable[[ir.Value, ir.Value], bool]
) -> Iterator[View]:
    for rough in _groups(weights, kind.rough):
        for group in _groups(rough, kind.fine):
            bases: list[_Weight] = []
            for weight in sorted(group, key=lambda weight: weight.type.itemsize):
                view = None
                if not weight.value.is_graph_output():
                    seen = (base for base in bases[:_BASES] if sees(base.value, weight.value))
                    views = (kind.view(base, weight) for base in itertools.islice(seen, _TRIES))
                    view = next(filter(None, views), None)
                if view is None:
                    bases.append(weight)
                else:
                    yield view


def _groups(
    weights: Iterable[_Weight], key: Callable[[_Weight], Hashable | None]
) -> Iterator[Sequence[_Weight]]:
    found: dict[Hashable, list[_Weight]] = defaultdict(list)
    for weight in weights:
        if (known := key(weight)) is not None:
            found[known].append(weight)
    return (group for group in found.values() if len(group) > 1)


def _content(weight: _Weight) -> Hashable:
    digest = hashlib.blake2b(digest_size=32)
    for chunk in content_chunks(weight.tensor):
        digest.update(chunk)
    return digest.digest()


def _reshaped(base: _Weight, target: _Weight) -> View | None:
    if base.shape == target.shape:
        return None
    return View(target.value, base.value, "Reshape", (("shape", np.array(target.shape, np.int64)),))


def _mixed(weight: _Weight) -> Hashable:
    """A digest of the elements in whatever order: the sum of a scrambled form of each."""
    total = 0
    for numbers in number_chunks(weight.tensor):
        bits = _bits(numbers).astype(np.uint64)
        bits = (bits ^ (bits >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        total += int((bits ^ (bits >> np.uint64(32))).sum(dtype=np.uint64))
    return total % 2**64


def _transposed(base: _Weight, target: _Weight) -> View | None:
    for perm in itertools.permutations(range(len(base.shape))):
        if tuple(base.shape[axis] for axis in perm) == target.shape and perm != tuple(range(len(perm))):
            moved = array_of(base.tensor).transpose(perm)
            if _equal(moved, array_of(target.tensor)):
                return View(target.value, base.value, "Transpose", attributes={"perm": perm})
    return None


def _unit(head: Array) -> float | None:
    """The power of two, with its sign, that the first number other than zero is less than two times of."""
    first = head[np.flatnonzero(head)[:1]]
    if not np.isfinite(head).all() or not first.size:
        return None
    return math.copysign(math.ldexp(1.0, math.frexp(float(first[0]))[1] - 1), float(first[0]))


def _scaled_head(weight: _Weight) -> Hashable | None:
    if weight.type not in _SCALED or (unit := _unit(weight.head)) is None:
        return None
    with np.errstate(all="ignore"):
        return weight.type, weight.shape, (weight.head / weight.head.dtype.type(unit)).tobytes()


def _digest(weight: _Weight, change: Callable[[Array], Array]) -> Hashable | None:
    """A digest of what ``change`` makes of the elements; None where one is no number."""
    digest = hashlib.blake2b(digest_size=32)
    with np.errstate(all="ignore"):
        for numbers in number_chunks(weight.tensor):
            changed = change(numbers)
            if np.isnan(changed).any():
                return None
            digest.update(np.ascontiguousarray(changed).view(np.uint8).data)
    return digest.digest()


def _scaled_digest(weight: _Weight) -> Hashable | None:
    unit = weight.head.dtype.type(_unit(weight.head) or 1.0)
    return _digest(weight, lambda numbers: numbers / unit)


def _scaled(base: _Weight, target: _Weight) -> View | None:
    below, above = _unit(base.head), _unit(target.head)
    assert below is not None and above is not None
    with np.errstate(all="ignore"):
        factor = target.head.dtype.type(above / below)
    if factor == 1 or not factor or not np.isfinite(factor):
        return None
    if not _maps(base, target, lambda numbers: numbers * factor):
        return None
    if factor == -1:
        return View(target.value, base.value, "Neg")
    return View(target.value, base.value, "Mul", (("factor", np.array(factor)),))


def _wide_head(weight: _Weight) -> Hashable | None:
    wide = weight.head.astype(np.float64)
    return None if np.isnan(wide).any() else (weight.shape, wide.tobytes())


def _wide_digest(weight: _Weight) -> Hashable | None:
    return _digest(weight, lambda numbers: numbers.astype(np.float64))


def _widened(base: _Weight, target: _Weight) -> View | None:
    kind = target.type.numpy()
    if base.type == target.type or not np.can_cast(base.type.numpy(), kind, "safe"):
        return None
    if not _maps(base, target, lambda numbers: numbers.astype(kind)):
        return None
    return View(target.value, base.value, "Cast", attributes={"to": int(target.type)})


def _slices(weights: Sequence[_Weight], sees: Callable[[ir.Value, ir.Value], bool]) -> Iterator[View]:
    for group in _groups(weights, _width):
        lengths = [weight.shape[0] for weight in group]
        shortest, longest = min(lengths), max(lengths)
        wanted = _Starts(
            weight for weight in group if weight.shape[0] < longest and not weight.value.is_graph_output()
        )
        for base in sorted(group, key=lambda weight: -weight.shape[0]):
            # what a slice holds itself was looked for in the longer one
            if base.shape[0] == shortest or base in wanted.found:
                continue
            for target, start in wanted.within(base, sees):
                limits = (("start", start), ("end", start + target.shape[0]), ("axis", 0))
                constants = tuple((name, np.array([limit], np.int64)) for name, limit in limits)
                yield View(target.value, base.value, "Slice", constants)


def _width(weight: _Weight) -> Hashable | None:
    wide = bool(weight.shape) and weight.tensor.nbytes >= _ROW * weight.shape[0]
    return (weight.type, weight.shape[1:]) if wide else None


class _Starts:
    """Weights of one width that are looked for in longer ones, by what they start with."""

    def __init__(self, weights: Iterable[_Weight]) -> None:
        self.found: set[_Weight] = set()
        self._tries: dict[_Weight, int] = {}
        self._by_start: dict[bytes, list[_Weight]] = defaultdict(list)
        for weight in weights:
            self._tries[weight] = _TRIES
            self._by_start[weight.head[: _known(weight)].tobytes()].append(weight)
        self._firsts = np.unique(_bits(np.array([weight.head[0] for weight in self._tries])))

    def within(
        self, base: _Weight, sees: Callable[[ir.Value, ir.Value], bool]
    ) -> Iterator[tuple[_Weight, int]]:
        """Each weight that a longer one holds, with its first row there."""
        rows = array_of(base.tensor).reshape(base.shape[0], -1)
        step, left = max(1, CHUNK * len(rows) // rows.nbytes), _HITS
        for begin in range(0, len(rows), step):
            starts = np.ascontiguousarray(rows[begin : begin + step, : _known(base)])
            hits = np.flatnonzero(np.isin(_bits(starts[:, 0]), self._firsts))[:left]
            left -= len(hits)
            for hit in hits.tolist():
                targets = self._by_start.get(starts[hit].tobytes(), [])
                for target in tuple(targets):
                    count, start = target.shape[0], begin + hit
                    self._tries[target] -= 1
                    same = (
                        start + count <= len(rows)
                        and count < len(rows)
                        and sees(base.value, target.value)
                        and _equal(rows[start : start + count], array_of(target.tensor).reshape(count, -1))
                    )
                    if same:
                        self.found.add(target)
                        yield target, start
                    if same or not self._tries[target]:
                        targets.remove(target)


def _known(weight: _Weight) -> int:
    """Elements of each row that are compared before whole rows are."""
    return min(_HEAD, math.prod(weight.shape[1:]))


def _maps(base: _Weight, target: _Weight, change: Callable[[Array], Array]) -> bool:
    """Whether ``change`` makes ``target`` of ``base``, bit for bit."""
    with np.errstate(all="ignore"):
        pairs = zip(number_chunks(base.tensor), number_chunks(target.tensor), strict=True)
        return all(change(numbers).tobytes() == wanted.tobytes() for numbers, wanted in pairs)


def _equal(a: Array, b: Array) -> bool:
    """Whether two arrays of one type and shape have the same bits, a few rows at a time."""
    step = max(1, CHUNK * len(a) // a.nbytes)
    return all(
        np.array_equal(_bits(a[start : start + step]), _bits(b[start : start + step]))
        for start in range(0, len(a), step)
    )


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


_KINDS = (
    _Kind(lambda weight: (weight.type, math.prod(weight.shape), weight.head.tobytes()), _content, _reshaped),
    _Kind(
        lambda weight: (
            (weight.type, tuple(sorted(weight.shape)), weight.corners)
            if 1 < len(weight.shape) <= _RANK
            else None
        ),
        _mixed,
        _transposed,
    ),
    _Kind(_scaled_head, _scaled_digest, _scaled),
    _Kind(_wide_head, _wide_digest, _widened),
)
