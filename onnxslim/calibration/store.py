"""A calibration: what a model's activations look like on some data; immutable, in one ``.npz`` file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from onnxslim.calibration.calibrators import Method, calibrated_range
from onnxslim.calibration.fingerprint import fingerprint
from onnxslim.calibration.observers import BINS, Histogram, Moments, TensorState
from onnxslim.calibration.sources.base import suggest
from onnxslim.calibration.sources.npz import open_npz
from onnxslim.errors import CalibrationError
from onnxslim.model.io import ModelLike, load

__all__ = ["Calibration"]

_SCHEMA = "onnxslim.calibration/1"


@dataclass(frozen=True)
class Calibration:
    """States of the observed tensors by name, and where they come from.

    Args:
        fingerprint: sha256 of the model's content (structure and weights).
        states: what was kept of each tensor.
        skipped: tensors that could not be observed, with the reason.
        samples: number of feeds.
        data: description of the data; ``is_random`` where it was made up.
        seed: the seed that the data was drawn with.
        notes: casts and other remarks.
    """

    fingerprint: str
    states: Mapping[str, TensorState]
    skipped: Mapping[str, str] = field(default_factory=dict)
    samples: int = 0
    data: str = ""
    is_random: bool = False
    seed: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", MappingProxyType(dict(self.states)))
        object.__setattr__(self, "skipped", MappingProxyType(dict(self.skipped)))

    def __contains__(self, name: object) -> bool:
        return name in self.states

    def range(self, name: str, method: Method = "minmax", **options: Any) -> tuple[float, float]:
        """``(low, high)`` of a tensor; options as in :func:`calibrated_range`.

        Raises:
            CalibrationError: the tensor was not observed; the message says why.
            OptionError: an unknown method.
        """
        return calibrated_range(self._state(name).histogram, method, **options)

    def histogram(self, name: str) -> Histogram:
        """The distribution of a tensor's values."""
        return self._state(name).histogram

    def moments(self, name: str) -> Moments | None:
        """Mean, variance and mean magnitude per channel; None where the channels differ between samples."""
        return self._state(name).moments

    def _state(self, name: str) -> TensorState:
        if name in self.states:
            return self.states[name]
        reason = self.skipped.get(name)
        raise CalibrationError(
            f"the tensor '{name}' was not observed" + (f": {reason}" if reason else ""),
            hint=None if reason else suggest(name, self.states),
        )

    def check(self, model: ModelLike) -> None:
        """Make sure that this calibration was made on ``model``.

        Raises:
            CalibrationError: it was made on a model with another structure or other weights.
        """
        found = fingerprint(load(model))
        if found != self.fingerprint:
            raise CalibrationError(
                "the calibration was made on another model",
                where=f"calibration {self.fingerprint[:12]}, model {found[:12]}",
                hint="calibrate this model: onnxslim calibrate MODEL --data DATA -o CAL.npz",
            )

    def summary(self) -> dict[str, int | str]:
        """Facts for a table."""
        return {
            "data": self.data,
            "samples": self.samples,
            "tensors": len(self.states),
            "skipped_tensors": len(self.skipped),
            "seed": self.seed,
            "model": self.fingerprint[:12],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` in one step: an existing file is replaced whole or not at all.

        Raises:
            CalibrationError: the file cannot be written.
        """
        target = Path(path)
        try:
            with tempfile.NamedTemporaryFile(
                dir=target.parent, prefix=f".{target.name}.", delete=False
            ) as out:
                try:
                    np.savez_compressed(out, allow_pickle=False, **self._arrays())
                    out.flush()
                    os.fsync(out.fileno())
                    Path(out.name).chmod(0o644)
                    Path(out.name).replace(target)
                except BaseException:
                    Path(out.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise CalibrationError(
                f"the calibration cannot be written: {error.strerror}", where=str(target)
            ) from error

    def _arrays(self) -> dict[str, Any]:
        states = list(self.states.values())
        with_moments = [state.moments for state in states if state.moments is not None]
        head = {
            "schema": _SCHEMA,
            "fingerprint": self.fingerprint,
            "names": list(self.states),
            "has_moments": [state.moments is not None for state in states],
            "skipped": dict(self.skipped),
            "samples": self.samples,
            "data": self.data,
            "is_random": self.is_random,
            "seed": self.seed,
            "notes": list(self.notes),
        }
        histograms = [state.histogram for state in states]
        return {
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
            "range": np.array([[h.low, h.high] for h in histograms]).reshape(-1, 2),
            "bins": np.array([[h.exponent, h.first, len(h.counts)] for h in histograms], np.int64).reshape(
                -1, 3
            ),
            "counts": np.concatenate([np.zeros(0, np.int64), *(h.counts for h in histograms)]),
            "channels": np.array([[m.axis, m.count, len(m.mean)] for m in with_moments], np.int64).reshape(
                -1, 3
            ),
            "moments": np.concatenate(
                [np.zeros((3, 0)), *(np.stack([m.mean, m.m2, m.mean_abs]) for m in with_moments)], axis=1
            ),
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what :meth:`save` wrote; nothing in the file is trusted.

        Raises:
            CalibrationError: not such a file, of another version, or damaged.
        """
        where = str(path)
        with open_npz(Path(path)) as members:
            if "head" not in members:
                _damaged(where, "it is no calibration")
            arrays = {name: member.whole() for name, member in members.items()}
        try:
            head = json.loads(arrays["head"].tobytes())
            if head["schema"] != _SCHEMA:
                raise CalibrationError(
                    f"the calibration has the unknown format {head['schema']!r}", where=where
                )
            return cls(
                str(head["fingerprint"]),
                _states(head, arrays),
                {str(name): str(reason) for name, reason in head["skipped"].items()},
                int(head["samples"]),
                str(head["data"]),
                bool(head["is_random"]),
                int(head["seed"]),
                tuple(map(str, head["notes"])),
            )
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
            _damaged(where, f"{type(error).__name__}: {error}", error)


def _states(head: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, TensorState]:
    """Cut the joined arrays apart; raises ValueError where they contradict each other."""
    names, has_moments = head["names"], head["has_moments"]
    bins, channels = arrays["bins"].astype(np.int64), arrays["channels"].astype(np.int64)
    sizes, widths = bins[:, 2], channels[:, 2]
    consistent = (
        len(names) == len(has_moments) == len(bins) == len(arrays["range"]) == len(set(names))
        and len(channels) == sum(map(bool, has_moments))
        and ((sizes >= 0) & (sizes <= BINS)).all()
        and (widths >= 0).all()
        and sizes.sum() == len(arrays["counts"])
        and arrays["moments"].shape == (3, widths.sum())
        and (arrays["counts"] >= 0).all()
        and np.isfinite(arrays["range"][sizes > 0]).all()
        and (np.abs(bins[:, 0]) <= 1074).all()
    )
    if not consistent:
        raise ValueError("its parts contradict each other")
    counts = np.split(arrays["counts"].astype(np.int64), np.cumsum(sizes)[:-1]) if len(names) else []
    sums = (
        np.split(arrays["moments"].astype(np.float64), np.cumsum(widths)[:-1], axis=1)
        if len(channels)
        else []
    )
    moments = iter(
        Moments(int(axis), int(count), *part) for (axis, count, _), part in zip(channels, sums, strict=True)
    )
    states = {}
    for i, name in enumerate(names):
        low, high = map(float, arrays["range"][i])
        histogram = Histogram(low, high, int(bins[i, 0]), int(bins[i, 1]), counts[i])
        states[str(name)] = TensorState(histogram, next(moments) if has_moments[i] else None)
    return states


def _damaged(where: str, why: str, cause: Exception | None = None) -> NoReturn:
    raise CalibrationError(
        f"not a calibration file: {why}", where=where, hint="write one with: onnxslim calibrate"
    ) from cause
