"""What a training has so far, kept in a file beside its output, so that a killed one can go on.

A run is continued only where an uninterrupted one would have the same bits: on the same models and data, with
the same options and the same runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt

from onnxslim.calibration.archive import DAMAGE, write_npz
from onnxslim.calibration.sources.npz import open_npz
from onnxslim.distillation.judge import Look
from onnxslim.distillation.optimizer import Optimizer
from onnxslim.distillation.trainer import State
from onnxslim.errors import OnnxSlimError, OptionError, ResourceError

__all__ = ["Checkpoint"]

Array = npt.NDArray[Any]

_SCHEMA = "onnxslim.distillation.partial/1"
_NUMBERS = ("steps", "rate", "step", "length", "rollbacks", "since_best", "losses", "rates")


class Checkpoint:
    """The file at ``path``, or none: then nothing is kept.

    Args:
        identity: what a continued run must agree in: a readable name and its value, JSON-able.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._identity = json.loads(json.dumps(dict(identity)))

    def save(self, state: State, parameters: Mapping[str, Array]) -> None:
        """Replace the file, whole or not at all.

        Raises:
            ResourceError: it cannot be written.
        """
        if self.path is None:
            return
        groups = {"now": parameters, "best": state.best, "moments": state.optimizer.moments}
        arrays = {
            f"{group}{number}": array
            for group, found in groups.items()
            for number, array in enumerate(found.values())
        }
        assert state.best_look is not None
        head = {
            "schema": _SCHEMA,
            "identity": self._identity,
            **{name: getattr(state, name) for name in _NUMBERS},
            "names": {group: list(found) for group, found in groups.items()},
            "optimizer": [state.optimizer.name, state.optimizer.steps],
            "looks": [asdict(look) for look in (state.best_look, *state.looks)],
        }
        try:
            write_npz(self.path, head, arrays)
        except OSError as error:
            raise ResourceError(
                f"the checkpoint cannot be written: {error.strerror}", where=str(self.path)
            ) from error

    def load(self, like: Mapping[str, Array]) -> tuple[State, dict[str, Array]] | None:
        """What an interrupted run left: its state, and its parameters at that moment; None if nothing.

        Args:
            like: the parameters as they are, by the same names and of the same shapes.

        Raises:
            OptionError: it is damaged, or belongs to a run that differs in the identity.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with open_npz(self.path) as members:
                arrays = {name: member.whole() for name, member in members.items()}
            head = json.loads(arrays["head"].tobytes())
            if head["schema"] != _SCHEMA:
                raise ValueError("it has an unknown format")
            differs = [key for key, value in self._identity.items() if head["identity"][key] != value]
            if not differs:
                return _state(head, arrays, like)
        except (*DAMAGE, OnnxSlimError) as error:
            raise OptionError(
                f"not an interrupted distillation: {error}", where=str(self.path), hint="start anew"
            ) from error
        raise OptionError(
            f"the interrupted distillation cannot be continued: its {differs[0]} differed",
            where=str(self.path),
            hint="give the models, data and options that it was started with, or start anew",
        )


def _state(
    head: Mapping[str, Any], arrays: Mapping[str, Array], like: Mapping[str, Array]
) -> tuple[State, dict[str, Array]]:
    groups = {
        group: {str(name): arrays[f"{group}{number}"].copy() for number, name in enumerate(names)}
        for group, names in head["names"].items()
    }
    for group in ("now", "best"):
        shapes = {name: array.shape for name, array in groups[group].items()}
        if shapes != {name: array.shape for name, array in like.items()}:
            raise ValueError("its weights are others")
    best, *looks = (Look(**look) for look in head["looks"])
    name, steps = head["optimizer"]
    state = State(
        **{name: head[name] for name in _NUMBERS},
        best=groups["best"],
        best_look=best,
        looks=looks,
        optimizer=Optimizer(name, steps, groups["moments"]),
    )
    return state, groups["now"]
