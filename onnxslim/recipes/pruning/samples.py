"""Feeds that are gone through many times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from onnxslim.calibration.data import Feeds

__all__ = ["Samples", "held"]

Feed = Mapping[str, Any]

_BYTES = 256 << 20  # of feeds that are held rather than read and prepared anew each time


class Samples(Protocol):
    """A known number of feeds, again and again the same."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Feed]: ...


class _Several:
    def __init__(self, parts: Sequence[Feeds]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Feed]:
        return (feed for part in self._parts for feed in part)


def held(*parts: Feeds) -> Samples:
    """All feeds, one part after the other; in memory if they are small.

    Example:
        >>> from onnxslim.calibration.data import random_feeds
        >>> from onnxslim.runtime.values import TensorInfo
        >>> len(held(random_feeds([TensorInfo("x", "float32", (2,))], samples=3)))
        3
    """
    found: list[Feed] = []
    size = 0
    for feed in _Several(parts):
        size += sum(getattr(value, "nbytes", 0) for value in feed.values())
        if size > _BYTES:
            return _Several(parts)
        found.append(feed)
    return found
