"""Arrays whose first axis counts the samples: how they are cut into feeds.

Shared by ``.npz`` files, which are streamed, and by arrays given from Python.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onnxslim.calibration.sources.base import LABELS, Sample
from onnxslim.errors import CalibrationError, OptionError
from onnxslim.runtime.values import TensorInfo

__all__ = ["ArrayColumn", "Column", "Rows"]


class Column(Protocol):
    """An array that is read along its first axis, forwards only."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start:stop``; ``start`` is never below an earlier ``stop``."""

    def whole(self) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class ArrayColumn:
    """A column over an array in memory."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.array[start:stop]

    def whole(self) -> np.ndarray:
        return self.array


Open = Callable[[], contextlib.AbstractContextManager[Mapping[str, Column]]]


@dataclass(frozen=True, slots=True)
class _Cut:
    """How one array becomes feeds: ``rows`` a feed, the axis dropped (``stacked``), or the same for all."""

    feeds: int
    rows: int
    stacked: bool = False
    constant: bool = False


class Rows:
    """Feeds cut from arrays that share their first axis.

    An array of the input's rank is cut into slices of the input's batch size (1 where it is free, or
    ``batch``).  An array of one rank more is a stack of complete feeds.  An array without axes for an input
    without axes, or one that is exactly one complete feed of an input of fixed first axis, serves every feed.

    Raises:
        CalibrationError: no rows, arrays of different lengths, or a rank that fits neither way.
        OptionError: ``batch`` contradicts the model.
    """

    sized = True

    def __init__(self, open_: Open, where: str, inputs: Sequence[TensorInfo], batch: int | None) -> None:
        self._open = open_
        self._where = where
        with open_() as columns:
            shapes = {name: column.shape for name, column in columns.items()}
        if not shapes.keys() - {LABELS}:
            raise CalibrationError("the data is empty", where=where)
        known = {info.name: info for info in inputs}
        self._cuts = {
            name: self._cut(name, shape, known.get(name), batch)
            for name, shape in shapes.items()
            if name != LABELS
        }
        self._count = self._common_count(inputs)
        self._label_rows = self._cut_labels(shapes)
        self.description = f"{where}: {self._count} feeds"
        dropped = self._dropped(shapes)
        if dropped:
            self.description += f" ({dropped} rows left over by the model's batch size)"

    def __len__(self) -> int:
        return self._count

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Sample]:
        with self._open() as columns:
            shared = {name: columns[name].whole() for name, cut in self._cuts.items() if cut.constant}
            for i in range(self._count) if indices is None else indices:
                feed: dict[str, Any] = {}
                for name, cut in self._cuts.items():
                    if cut.constant:
                        feed[name] = shared[name]
                        continue
                    rows = columns[name].read(i * cut.rows, (i + 1) * cut.rows)
                    feed[name] = rows[0] if cut.stacked else rows
                labels = None
                if self._label_rows:
                    labels = columns[LABELS].read(i * self._label_rows, (i + 1) * self._label_rows)
                yield Sample(i, f"{self._where}, sample {i}", feed, labels)

    def _cut(self, name: str, shape: tuple[int, ...], info: TensorInfo | None, batch: int | None) -> _Cut:
        declared = info.shape if info is not None else None
        rank = len(shape) if declared is None else len(declared)
        if len(shape) == rank == 0:
            return _Cut(1, 1, constant=True)
        if len(shape) == rank + 1:
            if batch is not None and batch > 1:
                raise OptionError(
                    f"the input '{name}' has no free first axis, so samples cannot be batched",
                    where=self._where,
                )
            return _Cut(shape[0], 1, stacked=True)
        if len(shape) != rank:
            raise CalibrationError(
                f"the array '{name}' has shape {list(shape)}, the model's input has rank {rank}",
                where=self._where,
                hint="the first axis counts the samples",
            )
        fixed = declared[0] if declared and isinstance(declared[0], int) else None
        if fixed is None:
            rows = batch or 1
            return _Cut(-(-shape[0] // rows), rows)
        if batch is not None and fixed != batch:
            raise OptionError(
                f"a batch of {batch} was asked for, the model's input '{name}' takes {fixed}",
                where=self._where,
            )
        return _Cut(shape[0] // fixed if fixed else 0, fixed, constant=shape[0] == fixed)

    def _common_count(self, inputs: Sequence[TensorInfo]) -> int:
        counts = {name: cut.feeds for name, cut in self._cuts.items() if not cut.constant}
        if not counts:  # each array is one complete feed: there is one
            return 1
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"'{name}' {count}" for name, count in counts.items())
            raise CalibrationError(
                f"the arrays have different numbers of samples: {shown}", where=self._where
            )
        count = next(iter(counts.values()))
        if count == 0:
            raise CalibrationError("the data holds no samples", where=self._where)
        return count

    def _cut_labels(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Rows of the labels per feed: as many as the inputs have, or one per feed; 0 without labels."""
        if LABELS not in shapes:
            return 0
        if not shapes[LABELS]:
            raise CalibrationError("the labels have no axis that counts samples", where=self._where)
        count = shapes[LABELS][0]
        for name, cut in self._cuts.items():
            if not cut.stacked and shapes[name] and shapes[name][0] == count:
                return cut.rows
        if count == self._count:
            return 1
        raise CalibrationError(f"there are {count} labels for {self._count} feeds", where=self._where)

    def _dropped(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        spare = (
            shapes[name][0] - self._count * cut.rows
            for name, cut in self._cuts.items()
            if not cut.constant and not cut.stacked
        )
        return max((n for n in spare if n > 0), default=0)
