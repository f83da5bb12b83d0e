"""What every source of data has in common: samples that can be read again, in order, whole or in part."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxslim.errors import CalibrationError, ResourceError

__all__ = ["LABELS", "MAX_FEED_BYTES", "Sample", "Source", "pick", "regular_file", "suggest"]

LABELS = "__labels__"  # the reserved key under which labels travel beside the inputs
MAX_FEED_BYTES = 2 << 30  # one feed larger than this is a mistake or an attack
MAX_SAMPLES = 10_000_000  # past this, an iterable is taken to be endless


@dataclass(frozen=True, slots=True)
class Sample:
    """One feed with its labels (None when there are none); ``origin`` names it in messages."""

    index: int
    origin: str
    feed: dict[str, Any]
    labels: np.ndarray | None = None


class Source(Protocol):
    """A re-iterable sequence of samples.

    ``read(None)`` yields all of them; ``read(indices)`` those at the given ascending positions.  ``sized``
    is False where counting means producing every sample, so that taking a few must not ask for the length.
    """

    @property
    def description(self) -> str: ...
    @property
    def sized(self) -> bool: ...
    def __len__(self) -> int: ...
    def read(self, indices: Sequence[int] | None = None) -> Iterator[Sample]: ...


def pick(
    items: Iterable[Any], indices: Sequence[int] | None, make: Callable[[int, Any], Sample]
) -> Iterator[Sample]:
    """``make(i, item)`` for the items at ascending ``indices`` of a stream; stops reading after the last."""
    wanted = iter(indices) if indices is not None else None
    target = next(wanted, None) if wanted is not None else None
    for i, item in enumerate(items):
        if i >= MAX_SAMPLES:
            raise ResourceError(
                f"the data did not end after {MAX_SAMPLES} samples", hint="give a number of samples"
            )
        if wanted is None:
            yield make(i, item)
        elif i == target:
            yield make(i, item)
            target = next(wanted, None)
        if wanted is not None and target is None:
            return


def regular_file(path: Path) -> Path:
    """Raise unless ``path`` is a regular file: a pipe or a device would block or never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CalibrationError(f"the data cannot be read: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(mode):
        raise CalibrationError("the data is not a regular file", where=str(path))
    return path


def suggest(name: str, known: Iterable[str]) -> str | None:
    """A hint that names what was probably meant.

    Example:
        >>> suggest("imgae", ["image", "mask"])
        "did you mean 'image'?"
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known[:8])}" if known else None
