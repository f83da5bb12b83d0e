"""Feeds: the re-iterable data that calibrating, verifying, measuring and scoring run on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.indices import index_limits
from onnxslim.calibration.conform import conform, input_infos
from onnxslim.calibration.sources.base import Sample, Source
from onnxslim.calibration.sources.find import find_source
from onnxslim.calibration.sources.images import ImageSpec
from onnxslim.calibration.sources.random import RandomSource
from onnxslim.errors import CalibrationError, OptionError, ResourceError
from onnxslim.runtime.values import TensorInfo

__all__ = [
    "DataLike",
    "Feeds",
    "ImageSpec",
    "Limits",
    "TensorInfo",
    "open_feeds",
    "probe_random_feeds",
    "random_feeds",
]

Feed = dict[str, Any]
Limits: TypeAlias = Mapping[str, Sequence[int | str]]
DataLike: TypeAlias = (
    "Feeds | str | os.PathLike[str] | np.ndarray | Mapping[str, Any] | Iterable[Any] | Callable[[], Any]"
)


class Feeds:
    """A re-iterable sequence of ``{input name: array}``, each checked against the model's inputs.

    Example:
        >>> from onnxslim.runtime.values import TensorInfo
        >>> feeds = random_feeds([TensorInfo("x", "float32", ("n", 3))], samples=10)
        >>> [len(part) for part in feeds.split(0.7)], next(iter(feeds))["x"].shape
        ([7, 3], (1, 3))
    """

    def __init__(
        self,
        source: Source,
        inputs: Sequence[TensorInfo],
        indices: Sequence[int] | None = None,
        description: str | None = None,
    ) -> None:
        self._source = source
        self._indices = None if indices is None else tuple(indices)
        self._notes: dict[str, None] = {}
        self.inputs = tuple(inputs)
        self.description = description or source.description

    @property
    def is_random(self) -> bool:
        """Whether the values are random rather than data."""
        return isinstance(self._source, RandomSource)

    @property
    def sized(self) -> bool:
        """Whether the number of feeds is known without producing them."""
        return self._indices is not None or self._source.sized

    @property
    def notes(self) -> tuple[str, ...]:
        """What was cast in the samples read so far."""
        return tuple(self._notes)

    @property
    def labels(self) -> list[np.ndarray] | None:
        """The labels of each feed, in order; None when the data has none (reads the data once)."""
        found = [sample.labels for sample in self._source.read(self._indices)]
        kept = [labels for labels in found if labels is not None]
        if kept and len(kept) != len(found):
            raise CalibrationError("some samples have labels and some have none", where=self.description)
        return kept or None

    def __len__(self) -> int:
        return len(self._source) if self._indices is None else len(self._indices)

    def __iter__(self) -> Iterator[Feed]:
        return (sample.feed for sample in self.samples())

    def samples(self) -> Iterator[Sample]:
        """The feeds with their labels, position and origin.

        Raises:
            CalibrationError: a sample does not fit the model, or holds NaN or Inf; or there are none.
        """
        sample = None
        for sample in self._source.read(self._indices):
            yield conform(sample, self.inputs, self._note)
        if sample is None:
            raise CalibrationError("the data holds no samples", where=self.description)

    def take(self, count: int) -> Feeds:
        """The first ``count`` feeds (all, where there are fewer).

        Raises:
            OptionError: ``count`` is below 1.
        """
        _check_positive(count, "the number of samples")
        if not self.sized:
            found = sum(1 for _ in self._source.read(range(count)))
            return self._part(range(found), f"the first {found}")
        return self._part(self._positions()[:count], f"the first {min(count, len(self))} of {len(self)}")

    def spread(self, count: int) -> Feeds:
        """``count`` feeds at even distances, so that data sorted by class is not cut to one class."""
        _check_positive(count, "the number of samples")
        total = len(self)
        if count >= total:
            return self
        positions = self._positions()
        return self._part(
            [positions[i * total // count] for i in range(count)], f"{count} of {total}, evenly spaced"
        )

    def split(self, fraction: float, seed: int = 0) -> tuple[Feeds, Feeds]:
        """Two disjoint random parts, the first with ``fraction`` of the feeds; each has at least one.

        Raises:
            OptionError: ``fraction`` is not between 0 and 1.
            CalibrationError: there are fewer than two feeds.
        """
        if not 0 < fraction < 1:
            raise OptionError(f"the fraction of a split must lie between 0 and 1, not {fraction}")
        positions = np.array(self._positions())
        if len(positions) < 2:
            raise CalibrationError("the data has one sample and two parts are needed", where=self.description)
        count = min(max(round(len(positions) * fraction), 1), len(positions) - 1)
        order = np.random.default_rng(seed).permutation(len(positions))
        parts = [np.sort(order[:count]), np.sort(order[count:])]
        first, second = (
            self._part(positions[part].tolist(), f"{len(part)} of {len(positions)}, split with seed {seed}")
            for part in parts
        )
        return first, second

    def _positions(self) -> tuple[int, ...]:
        return tuple(range(len(self._source))) if self._indices is None else self._indices

    def _part(self, indices: Sequence[int], label: str) -> Feeds:
        return Feeds(self._source, self.inputs, indices, f"{self.description} ({label})")

    def _note(self, text: str) -> None:
        self._notes[text] = None


def open_feeds(
    source: DataLike,
    inputs: Sequence[TensorInfo] | ir.Model,
    *,
    samples: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    images: ImageSpec | Mapping[str, Any] | str | None = None,
    dims: Mapping[str, int] | None = None,
) -> Feeds:
    """The feeds behind whatever a user may give as data.

    Args:
        source: a path of an ``.npz`` file (first axis = samples), of a folder of ``.npz`` files (each one
            feed) or of images; ``module:function`` or ``path.py:function``; ``random``; or from Python
            arrays by input name (first axis = samples), an iterable of feeds, a function that returns one.
        inputs: the model's inputs, or the model.
        samples: how many feeds to use, at even distances (the first ones where the length is not known).
        batch: rows per feed, for inputs with a free first axis; default 1.
        seed: of random data.
        images: the preprocessing of images.
        dims: sizes of symbolic dimensions, for random data.

    Raises:
        CalibrationError: the data does not exist, is broken, or its first sample does not fit the model.
        OptionError: an option contradicts the data or the model.
        DependencyError: images without pillow.
        ResourceError: a size is beyond any calibration data.

    Example:
        >>> from onnxslim.runtime.values import TensorInfo
        >>> len(open_feeds({"x": np.zeros((5, 3), np.float32)}, [TensorInfo("x", "float32", (1, 3))]))
        5
    """
    if samples is not None:
        _check_positive(samples, "the number of samples")
    if batch is not None:
        _check_positive(batch, "the batch size")
    limits: Limits = {}
    if isinstance(inputs, ir.Model):
        limits = index_limits(inputs) if isinstance(source, str) and source == "random" else {}
        inputs = input_infos(inputs)
    if isinstance(source, Feeds):
        return source if samples is None else source.spread(samples)
    if isinstance(source, str) and source == "random":
        if batch is not None:
            raise OptionError("random data has no batch size", hint="bind the dimension to a size instead")
        return random_feeds(inputs, samples or 8, seed, dims or {}, limits=limits)
    if not inputs:
        raise CalibrationError("the model has no inputs, so there is nothing to feed")
    found = find_source(source, inputs, samples, batch, images)
    feeds = Feeds(found, inputs)
    if samples is not None:
        feeds = feeds.spread(samples) if found.sized else feeds.take(samples)
    next(feeds.samples())  # what does not fit is said before anything expensive starts
    return feeds


def random_feeds(
    inputs: Sequence[TensorInfo],
    samples: int = 8,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    int_high: int = 2,
    free: int = 8,
    free_last: bool = False,
    limits: Limits | None = None,
) -> Feeds:
    """Seeded random feeds for a model's inputs; see :class:`RandomSource` for the values.

    Raises:
        CalibrationError: an input is no tensor.
        ResourceError: a feed would not fit into memory.
    """
    _check_positive(samples, "the number of samples")
    source = RandomSource(
        tuple(inputs), samples, seed, dims or {}, shapes or {}, int_high, free, free_last, limits or {}
    )
    return Feeds(source, inputs)


def probe_random_feeds(
    inputs: Sequence[TensorInfo],
    accepts: Callable[[Feed], bool],
    samples: int = 8,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    limits: Limits | None = None,
) -> Feeds | None:
    """Random feeds that the model really runs on: sizes and integer ranges are tried until one is accepted.

    A range that is only guessed must be accepted to its end, since one feed may miss what another one holds.

    Args:
        accepts: whether the model runs on a feed.
        dims, shapes: sizes that are not tried but given, by symbol and by input name.
        limits: see :func:`~onnxslim.analysis.indices.index_limits`.

    Returns:
        The feeds, or None when nothing that was tried runs.

    Example:
        >>> from onnxslim.runtime.values import TensorInfo
        >>> found = probe_random_feeds([TensorInfo("x", "float32", (1, "t"))], lambda f: f["x"].size == 64)
        >>> next(iter(found))["x"].shape
        (1, 64)
    """
    tried: set[tuple[object, ...]] = set()
    lucky: Feeds | None = None
    for free_last, free, int_high in itertools.product((False, True), (8, 32, 64, 224, 512, 1), (100, 2, 1)):
        try:
            sizes = int_high, free, free_last
            source = RandomSource(
                tuple(inputs), samples, seed, dims or {}, shapes or {}, *sizes, limits or {}
            )
        except ResourceError:
            continue
        feeds = Feeds(source, inputs)
        feed = next(iter(feeds))
        guessed = [
            name
            for name, value in feed.items()
            if source.limit(name) is None and value.dtype.kind in "iu" and value.dtype.itemsize > 1
        ]
        key = tuple((value.shape, int_high if name in guessed else 0) for name, value in feed.items())
        if key not in tried and accepts(feed):
            ends = {name: np.full_like(feed[name], int_high - 1) for name in guessed}
            if not ends or accepts(feed | ends):
                return feeds
            lucky = lucky or feeds
        tried.add(key)
    return lucky


def _check_positive(value: int, what: str) -> None:
    if value < 1:
        raise OptionError(f"{what} must be at least 1, not {value}")
