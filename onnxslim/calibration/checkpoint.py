"""What a calibration has so far, kept in a file beside its output, so that a killed one can go on.

The file holds the states up to some chunk and a digest of the data up to there.  A run is continued only
where an uninterrupted one would have the same bits: on the same model, tensors and data, with the same
runtime.
"""

from __future__ import annotations

import glob
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim.calibration.archive import DAMAGE, read_archive, write_archive
from onnxslim.calibration.observers import TensorState
from onnxslim.calibration.sources.base import Sample
from onnxslim.errors import CalibrationError

__all__ = ["Checkpoint", "DataDigest", "Progress", "discard"]

_SCHEMA = "onnxslim.calibration.partial/1"
_SECONDS = 1.0  # at least, between two writes: what a kill may cost
_SHARE = 0.1  # of the time, at most, goes into writing


@dataclass(frozen=True)
class Progress:
    """How far a calibration is; a new one after each chunk, so that an interruption finds it in order.

    Attributes:
        passes: passes over the data that are complete.
        chunks: chunks of the pass at hand that are merged.
        samples: samples of the pass at hand that are merged.
        digest: of their data.
        whole: digest of all the data, once a pass is complete and another one begins.
        states: of the tensors so far.
        rejected: tensors that were not finite, with the sample and what they were.
    """

    passes: int = 0
    chunks: int = 0
    samples: int = 0
    digest: str = ""
    whole: str = ""
    states: Mapping[str, TensorState] = field(default_factory=dict)
    rejected: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class Checkpoint:
    """The file at ``path``, or none: then nothing is kept.

    Args:
        identity: what a continued run must agree in: a readable name and its value, JSON-able.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._identity = dict(identity)
        self._slices: list[list[str]] = []
        self._due = time.monotonic() + _SECONDS
        self._pending: Progress | None = None

    def load(self) -> tuple[Progress, list[list[str]]] | None:
        """What an interrupted run left, and its slices of tensors; None if there is nothing.

        Raises:
            CalibrationError: it is damaged, or belongs to a run that differs in the identity.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            head, states = read_archive(self.path, _SCHEMA)
            kept = head["identity"]
            counts = [int(head[key]) for key in ("passes", "chunks", "samples")]
            slices = [[str(name) for name in names] for names in head["slices"]]
            if min(counts) < 0 or counts[0] >= len(slices):
                raise ValueError("its counts contradict each other")
            progress = Progress(
                counts[0],
                counts[1],
                counts[2],
                str(head["digest"]),
                str(head["whole"]),
                states,
                {str(name): (str(origin), str(what)) for name, (origin, what) in head["rejected"].items()},
            )
            differs = [key for key in self._identity if kept[key] != self._identity[key]]
        except DAMAGE as error:
            raise CalibrationError(
                f"not an interrupted calibration: {error}", where=str(self.path), hint="start anew"
            ) from error
        if differs:
            raise self.refusal(f"its {differs[0]} differed")
        return progress, slices

    def refusal(self, why: str) -> CalibrationError:
        """The error that the interrupted run cannot be continued."""
        return CalibrationError(
            f"the interrupted calibration cannot be continued: {why}",
            where=str(self.path),
            hint="give the model, data and options that it was started with, or start anew",
        )

    def keep(self, progress: Progress, slices: list[list[str]]) -> None:
        """Write the file, unless that was done a moment ago: then :meth:`flush` or a later call does."""
        if self.path is None:
            return
        self._pending, self._slices = progress, slices
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> bool:
        """Write what was not written yet; whether there is a file now."""
        if self.path is None:
            return False
        if self._pending is not None:
            now, begun = self._pending, time.monotonic()
            head = {
                "schema": _SCHEMA,
                "identity": self._identity,
                "slices": self._slices,
                "passes": now.passes,
                "chunks": now.chunks,
                "samples": now.samples,
                "digest": now.digest,
                "whole": now.whole,
                "rejected": dict(now.rejected),
            }
            write_archive(self.path, head, now.states, compress=False)
            self._pending, ended = None, time.monotonic()
            self._due = ended + max(_SECONDS, (ended - begun) / _SHARE)
        return self.path.exists()


def discard(path: Path) -> None:
    """Remove a checkpoint, and what a kill in the middle of writing it may have left beside it."""
    for left in (path, *path.parent.glob(f".{glob.escape(path.name)}.*")):
        left.unlink(missing_ok=True)


class DataDigest:
    """A running sha256 over feeds: names, types, shapes and values."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, sample: Sample) -> None:
        for name in sorted(sample.feed):
            self._add(name, sample.feed[name])

    def _add(self, name: str, value: Any) -> None:
        if isinstance(value, list):  # a sequence
            for position, item in enumerate(value):
                self._add(f"{name}[{position}]", item)
        elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
            self._hash.update(repr((name, value.dtype.str, value.shape)).encode("utf-8", "surrogatepass"))
            self._hash.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        else:  # strings, or an empty optional
            listed = value.tolist() if isinstance(value, np.ndarray) else value
            self._hash.update(repr((name, np.shape(value), listed)).encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
