"""Random feeds made from the input specification alone: good for checking, poor for calibrating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxslim.calibration.conform import numpy_dtype
from onnxslim.calibration.sources.base import MAX_FEED_BYTES, Sample
from onnxslim.errors import CalibrationError, ResourceError
from onnxslim.runtime.values import TensorInfo

__all__ = ["RandomSource"]

_WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")


@dataclass(frozen=True)
class RandomSource:
    """Seeded feeds: sample ``i`` depends on ``(seed, i)`` alone, so that any part can be made again.

    Floats are standard normal, bytes use their whole range, wider integers lie in ``[0, int_high)`` (they
    are mostly indices, ids or masks, and 0 and 1 are valid for nearly all of them), strings are words.
    What is known to pick along an axis lies within it.

    Args:
        limits: input name -> sizes of axes that its elements pick along, as numbers or symbols: such an input
            has whole numbers in ``[0, size)``, whatever its type.
        count: number of feeds.
        dims: sizes of symbolic dimensions by symbol.
        shapes: whole shapes by input name; they come before ``dims``.
        free: size of a free dimension that nothing binds; a free first axis is 1.
        free_last: only free last axes have that size, all others 1 (a state beside a sequence needs it).
    """

    inputs: tuple[TensorInfo, ...]
    count: int
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    int_high: int = 2
    free: int = 8
    free_last: bool = False
    limits: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    sized = True

    def __post_init__(self) -> None:
        for info in self.inputs:
            if numpy_dtype(info) is None:
                raise CalibrationError(
                    f"no random data can be made for an input of kind {info.kind}", where=info.name
                )
        size = sum(int(np.prod(self.shape_of(info), dtype=object)) for info in self.inputs)
        if size * 4 > MAX_FEED_BYTES:
            raise ResourceError(
                f"one random feed would have {size} values", hint="bind the dimensions to smaller sizes"
            )

    @property
    def description(self) -> str:
        return f"random (seed {self.seed}): {self.count} feeds"

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Sample]:
        for i in range(self.count) if indices is None else indices:
            rng = np.random.default_rng((self.seed, i))
            feed = {info.name: self._value(info, rng) for info in self.inputs}
            yield Sample(i, f"random data, sample {i}", feed)

    def shape_of(self, info: TensorInfo) -> tuple[int, ...]:
        """The shape of a feed of this input, with every free dimension bound."""
        if info.name in self.shapes:
            return tuple(self.shapes[info.name])
        sizes = self._sizes()
        shape = info.shape or ()
        return tuple(
            dim if isinstance(dim, int) else sizes.get(dim or "", self._free_size(axis, len(shape)))
            for axis, dim in enumerate(shape)
        )

    def limit(self, name: str) -> int | None:
        """The size of the shortest axis that an input picks along, at least 1; None: it is not known."""
        sizes = self._sizes()
        known = [size if isinstance(size, int) else sizes.get(size) for size in self.limits.get(name, ())]
        found = [size for size in known if size is not None]
        return max(min(found), 1) if found else None

    def _sizes(self) -> dict[str, int]:
        """One size for each symbol, wherever it occurs: given, or as its first occurrence suggests."""
        sizes = dict(self.dims)
        for info in self.inputs:
            shape = info.shape or ()
            for axis, dim in enumerate(shape):
                if isinstance(dim, str) and dim != "?":
                    sizes.setdefault(dim, self._free_size(axis, len(shape)))
        return sizes

    def _free_size(self, axis: int, rank: int) -> int:
        return 1 if axis == 0 or (self.free_last and axis < rank - 1) else self.free

    def _value(self, info: TensorInfo, rng: np.random.Generator) -> Any:
        dtype, shape = numpy_dtype(info), self.shape_of(info)
        assert dtype is not None
        if dtype.kind == "O":
            return rng.choice(np.array(_WORDS, dtype=object), shape)
        if dtype == np.bool_:
            return rng.integers(0, 2, shape).astype(bool)
        limit = self.limit(info.name)
        if limit is not None and dtype.kind in "iuf":
            most = np.iinfo(dtype).max if dtype.kind in "iu" else 2 ** (np.finfo(dtype).nmant + 1)
            return np.asarray(rng.integers(0, min(limit, int(most) + 1), shape)).astype(dtype)
        if dtype.kind in "iu":
            if dtype.itemsize == 1:
                limits = np.iinfo(dtype)
                return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
            return np.asarray(rng.integers(0, self.int_high, shape)).astype(dtype)
        if "int" in dtype.name:  # ml_dtypes' 2- and 4-bit integers
            return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
        if dtype.kind == "c":
            return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
