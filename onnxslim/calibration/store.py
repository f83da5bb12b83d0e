"""A calibration: what a model's activations look like on some data; immutable, in one ``.npz`` file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxslim.calibration.archive import DAMAGE, read_archive, write_archive
from onnxslim.calibration.calibrators import Method, calibrated_range
from onnxslim.calibration.fingerprint import fingerprint
from onnxslim.calibration.moments import Moments
from onnxslim.calibration.observers import Histogram, TensorState
from onnxslim.calibration.sources.base import suggest
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
        return calibrated_range(self._state(name), method, **options)

    def histogram(self, name: str) -> Histogram:
        """The distribution of a tensor's values."""
        return self._state(name).histogram

    def moments(self, name: str) -> Moments | None:
        """Mean, variance and mean magnitude per channel; None where they were not kept, as nobody multiplies
        the tensor with weights or named it, and where the channels differ between samples."""
        return self._state(name).moments

    def second_moments(self, name: str) -> np.ndarray:
        """``X^T X / n`` of a tensor, ``[channels, channels]`` in float64; not centred.

        Raises:
            CalibrationError: it was not asked for, or the number of channels differs between samples.
        """
        products = self._state(name).products
        if products is None:
            raise CalibrationError(
                f"the second moments of '{name}' were not kept",
                hint="name it in second_moments; its channels must not differ between samples",
            )
        return np.asarray(products.matrix / max(products.count, 1))

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

    def merge(self, other: Calibration) -> Calibration:
        """The calibration on the data of both, as if ``other``'s feeds had followed.

        What only one of them observed is in the result's ``skipped``.  Ranges and histograms are those of
        one run over all the data, bit for bit; sums are grouped differently.

        Raises:
            CalibrationError: they were made on different models.
        """
        if self.fingerprint != other.fingerprint:
            raise CalibrationError(
                "the calibrations were made on different models",
                where=f"{self.fingerprint[:12]} and {other.fingerprint[:12]}",
                hint="calibrate one model on both data",
            )
        lone = dict.fromkeys(
            [name for name in [*self.states, *other.states] if not (name in self and name in other)],
            "only one of the merged calibrations has it",
        )
        return Calibration(
            self.fingerprint,
            {name: state.merge(other.states[name]) for name, state in self.states.items() if name in other},
            {**lone, **self.skipped, **other.skipped},
            self.samples + other.samples,
            f"{self.data} + {other.data}",
            self.is_random or other.is_random,
            self.seed,
            tuple(dict.fromkeys([*self.notes, *other.notes])),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` in one step: an existing file is replaced whole or not at all.

        Raises:
            CalibrationError: the file cannot be written.
        """
        head = {
            "schema": _SCHEMA,
            "fingerprint": self.fingerprint,
            "skipped": dict(self.skipped),
            "samples": self.samples,
            "data": self.data,
            "is_random": self.is_random,
            "seed": self.seed,
            "notes": list(self.notes),
        }
        write_archive(Path(path), head, self.states, compress=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what :meth:`save` wrote; nothing in the file is trusted.

        Raises:
            CalibrationError: not such a file, of another version, or damaged.
        """
        try:
            head, states = read_archive(Path(path), _SCHEMA)
            return cls(
                str(head["fingerprint"]),
                states,
                {str(name): str(reason) for name, reason in head["skipped"].items()},
                int(head["samples"]),
                str(head["data"]),
                bool(head["is_random"]),
                int(head["seed"]),
                tuple(map(str, head["notes"])),
            )
        except DAMAGE as error:
            raise CalibrationError(
                f"not a calibration file: {error}",
                where=str(path),
                hint="write one with: onnxslim calibrate",
            ) from error
