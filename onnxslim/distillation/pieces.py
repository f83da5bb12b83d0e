"""Batches in pieces: losses are means over samples, so that their gradients add up to those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["first_of", "fitting", "in_pieces", "pieces", "samples_of"]

Array = npt.NDArray[Any]


def samples_of(feed: Mapping[str, Array], rows: int) -> int:
    """How many samples of so many rows a batch has; 1 where it cannot be taken apart.

    Args:
        rows: of each input, for a sample; 0 where they differ.

    Example:
        >>> batch = {"x": np.zeros((6, 2)), "m": np.zeros(6)}
        >>> samples_of(batch, 1), samples_of(batch, 2), samples_of(batch, 0)
        (6, 3, 1)
    """
    found = {len(value) if value.ndim else 0 for value in feed.values()}
    return max(found.pop() // rows, 1) if rows and len(found) == 1 else 1


def pieces(arrays: Mapping[str, Array], samples: int, size: int) -> Iterator[tuple[float, dict[str, Array]]]:
    """A batch in parts of whole samples, and what part of it each is.

    Args:
        size: samples of a part, at most; parts differ by one at most, so that few sessions serve them.

    Example:
        >>> [(share, part["x"].tolist()) for share, part in pieces({"x": np.arange(8)}, 4, 3)]
        [(0.5, [0, 1, 2, 3]), (0.5, [4, 5, 6, 7])]
    """
    ends = np.linspace(0, samples, -(-samples // size) + 1).round().astype(int)
    for first, last in pairwise(ends):
        found = {}
        for name, value in arrays.items():
            each = len(value) // samples
            found[name] = value[first * each : last * each]
        yield float(last - first) / samples, found


def first_of(feed: Mapping[str, Array], samples: int, count: int) -> dict[str, Array]:
    """The first few samples of a batch."""
    return {name: value[: count * (len(value) // samples)] for name, value in feed.items()}


def in_pieces(
    run: Callable[[Mapping[str, Array]], dict[str, Array]], feed: Mapping[str, Array], samples: int, size: int
) -> dict[str, Array]:
    """What a model says of a batch, computed part by part."""
    found = [run(part) for _, part in pieces(feed, samples, size)]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def fitting(samples: int, limit: int, peak: Callable[[int], int]) -> int:
    """The most samples, up to ``samples``, whose peak stays within a limit; 0 where one does not.

    Args:
        peak: bytes for so many, which never fall with more of them.

    Example:
        >>> fitting(32, 100, lambda samples: 20 + 9 * samples)
        8
    """
    if peak(samples) <= limit:
        return samples
    fits, fails = 0, samples
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if peak(middle) <= limit else (fits, middle)
    return fits
