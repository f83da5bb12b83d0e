"""What a training step sees: batches of feeds of equal shapes, varied without knowing what they show.

Everything drawn is a function of the seed and the number of the step, so that a run that was interrupted goes
on with the very batches that it would have had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Batch", "Pool", "of_few_sizes", "shifted", "stacked"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

_LEAST = 12  # pixels: an image that is shifted has as many at least, in height and width
_SIZES = 16  # of images; more are filled up to as few, for which all steps can be kept
_SHIFT = 10  # an image is shifted by up to a tenth of its size
_MIXED = 0.5  # share of batches that are mixed


def stacked(feeds: Sequence[Feed]) -> dict[str, Array]:
    """Several feeds as one, along the first axis."""
    if len(feeds) == 1:
        return dict(feeds[0])
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


@dataclass(frozen=True)
class Batch:
    """The feeds of one step.

    Attributes:
        indices: of the samples.
        feed: what the models get: one feed of all, or of the only one.
        varied: whether it is not what the samples are.
    """

    indices: tuple[int, ...]
    feed: dict[str, Array]
    varied: bool = False


@dataclass
class Pool:
    """The samples that are trained on.

    Args:
        feeds: one for each sample.
        size: samples of a batch.
        seed: of the order and of all variation.
        together: whether feeds may be stacked; else each is a batch of its own.
        vary: shift what looks like images, mix what is made of floats, let images of many sizes have few.
        mix: whether samples may be mixed, and images filled up; not with labels.

    Example:
        >>> pool = Pool([{"x": np.full((1, 2), i, np.float32)} for i in range(5)], size=2, vary=False)
        >>> pool.epoch, sorted({i for step in range(pool.epoch) for i in pool.batch(step).indices})
        (3, [0, 1, 2, 3, 4])
    """

    feeds: Sequence[Feed]
    size: int = 32
    seed: int = 0
    together: bool = True
    vary: bool = True
    mix: bool = True
    _buckets: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        if self.vary and self.mix:  # labels may lie along the sides of an image
            self.feeds = of_few_sizes(self.feeds)
        found: dict[object, list[int]] = {}
        for number, feed in enumerate(self.feeds):
            key = tuple((name, value.shape[1:], value.dtype.str) for name, value in sorted(feed.items()))
            found.setdefault(key if self.together else number, []).append(number)
        self._buckets = list(found.values())

    @property
    def shapes(self) -> int:
        """How many shapes batches have, about."""
        keys = (
            (min(len(b), self.size), *(v.shape for v in self.feeds[b[0]].values())) for b in self._buckets
        )
        return len(set(keys))

    @property
    def epoch(self) -> int:
        """Steps until every sample was seen."""
        return sum(-(-len(bucket) // self.size) for bucket in self._buckets)

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, place = divmod(step, self.epoch)
        indices = self._order(epoch)[place]
        feed = stacked([self.feeds[index] for index in indices])
        if not self.vary:
            return Batch(indices, feed)
        rng = np.random.default_rng([self.seed, 1, step])
        changed = varied(feed, rng, mix=self.mix)
        return Batch(indices, changed, changed is not feed)

    def _order(self, epoch: int) -> list[tuple[int, ...]]:
        rng = np.random.default_rng([self.seed, 0, epoch])
        batches: list[tuple[int, ...]] = []
        for bucket in self._buckets:
            order = [bucket[i] for i in rng.permutation(len(bucket))]
            if len(order) > self.size:  # the last batch is as large as the others
                order += order[: -len(order) % self.size]
            batches += [tuple(order[at : at + self.size]) for at in range(0, len(order), self.size)]
        return [batches[i] for i in rng.permutation(len(batches))]


def varied(feed: dict[str, Array], rng: np.random.Generator, *, mix: bool = True) -> dict[str, Array]:
    """A batch with images shifted and, half of the time, samples mixed; the same one where nothing fits."""
    if not all(value.dtype.kind == "f" and value.ndim >= 2 for value in feed.values()):
        return feed
    found = feed
    images = [name for name, value in feed.items() if _plane(value) is not None]
    if len(images) == len(feed):
        found = {name: shifted(value, rng) for name, value in feed.items()}
    rows = {len(value) for value in feed.values()}
    if mix and len(rows) == 1 and rows.pop() > 1 and rng.random() < _MIXED:
        found = _mixed(found, rng)
    return found


def of_few_sizes(feeds: Sequence[Feed]) -> Sequence[Feed]:
    """Images of many sizes, each filled up by its edges to one of few sizes that others have.

    A step is built for each shape of a batch, and the teacher sees what the student sees.

    Example:
        >>> feeds = [{"x": np.ones((1, 3, 32, width), np.float32)} for width in range(40, 140)]
        >>> len({feed["x"].shape for feed in of_few_sizes(feeds)})
        16
    """
    images = all(_plane(value) is not None for feed in feeds for value in feed.values())
    if not images or len({tuple(value.shape for value in feed.values()) for feed in feeds}) <= _SIZES:
        return feeds
    found: list[dict[str, Array]] = [dict(feed) for feed in feeds]
    for name in found[0]:
        values = [feed[name] for feed in feeds]
        first = _plane(values[0])
        assert first is not None
        sides = [(axis, [value.shape[axis] for value in values]) for axis in (first, first + 1)]
        moving = [(axis, sizes) for axis, sizes in sides if len(set(sizes)) > 1]
        for axis, sizes in moving:
            shares = np.linspace(0, 1, round(_SIZES ** (1 / len(moving))) + 1)[1:]
            ends = np.unique(np.quantile(sizes, shares, method="higher"))
            for feed, size in zip(found, sizes, strict=True):
                more = [(0, 0)] * feed[name].ndim
                more[axis] = (0, int(ends[np.searchsorted(ends, size)]) - size)
                feed[name] = np.pad(feed[name], more, mode="edge")
    return found


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Each image moved by up to a tenth of its size; its edge fills what is left.

    Example:
        >>> image = np.arange(144, dtype=np.float32).reshape(1, 1, 12, 12)
        >>> shifted(image, np.random.default_rng(1)).shape
        (1, 1, 12, 12)
    """
    first = _plane(images)
    assert first is not None
    height, width = images.shape[first : first + 2]
    result = np.empty_like(images)
    for number, image in enumerate(images):
        down, right = (int(rng.integers(-(size // _SHIFT), size // _SHIFT + 1)) for size in (height, width))
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        result[number] = np.take(np.take(image, rows, first - 1), columns, first)
    return result


def _plane(value: Array) -> int | None:
    """The first of the two axes of an image, channels before or behind them; None for anything else."""
    if value.ndim != 4:
        return None
    first = 2 if value.shape[1] in (1, 3, 4) else 1 if value.shape[3] in (1, 3, 4) else None
    return first if first is not None and min(value.shape[first : first + 2]) >= _LEAST else None


def _mixed(feed: dict[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    """Each sample with a share of another one.  Source: Zhang et al., "mixup"."""
    rows = len(next(iter(feed.values())))
    other, share = rng.permutation(rows), rng.random(rows) / 2
    found = {}
    for name, value in feed.items():
        part = share.astype(value.dtype).reshape(rows, *[1] * (value.ndim - 1))
        found[name] = np.asarray((1 - part) * value + part * value[other])
    return found
