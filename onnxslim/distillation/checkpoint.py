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
from onnxslim.distillation.trainer import Kept, State
from onnxslim.errors import OnnxSlimError, OptionError, ResourceError

__all__ = ["Checkpoint"]

Array = npt.NDArray[Any]

_SCHEMA = "onnxslim.distillation.partial/2"
_NUMBERS = ("steps", "rate", "step", "length", "rollbacks", "losses", "rates", "blocks")


class Checkpoint:
    """The file at ``path``, or none: then nothing is kept.

    Args:
        identity: what a continued run must agree in: a readable name and its value, JSON-able.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._identity = json.loads(json.dumps(dict(identity)))

    def save(self, state: State, parameters: Mapping[str, Array], block: Kept | None = None) -> None:
        """Replace the file, whole or not at all.

        Args:
            block: what is trained at present, where blocks are trained one after the other.

        Raises:
            ResourceError: it cannot be written.
        """
        if self.path is None:
            return
        runs = [Kept(state, parameters), *(() if block is None else (block,))]
        arrays: dict[str, Array] = {}
        told = [_packed(run, f"run{number}.", arrays) for number, run in enumerate(runs)]
        head = {"schema": _SCHEMA, "identity": self._identity, "runs": told}
        try:
            write_npz(self.path, head, arrays)
        except OSError as error:
            raise ResourceError(
                f"the checkpoint cannot be written: {error.strerror}", where=str(self.path)
            ) from error

    def load(self, like: Mapping[str, Array]) -> list[Kept]:
        """What an interrupted run left, and the block that it was at; empty if nothing.

        Args:
            like: the parameters as they are, by the same names and of the same shapes.

        Raises:
            OptionError: it is damaged, or belongs to a run that differs in the identity.
        """
        if self.path is None or not self.path.exists():
            return []
        try:
            with open_npz(self.path) as members:
                arrays = {name: member.whole() for name, member in members.items()}
            head = json.loads(arrays["head"].tobytes())
            if head["schema"] != _SCHEMA:
                raise ValueError("it has an unknown format")
            differs = [key for key, value in self._identity.items() if head["identity"][key] != value]
            if not differs:
                runs = enumerate(head["runs"])
                return [_unpacked(told, f"run{number}.", arrays, like) for number, told in runs]
        except (*DAMAGE, OnnxSlimError) as error:
            raise OptionError(
                f"not an interrupted distillation: {error}", where=str(self.path), hint="start anew"
            ) from error
        raise OptionError(
            f"the interrupted distillation cannot be continued: its {differs[0]} differed",
            where=str(self.path),
            hint="give the models, data and options that it was started with, or start anew",
        )


def _packed(run: Kept, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    """What can be JSON of a run; its arrays are added to the others."""
    state = run.state
    groups = {"now": run.parameters, "best": state.best, "moments": state.optimizer.moments}
    for group, found in groups.items():
        arrays |= {f"{prefix}{group}{number}": array for number, array in enumerate(found.values())}
    assert state.best_look is not None
    return {
        **{name: getattr(state, name) for name in _NUMBERS},
        "names": {group: list(found) for group, found in groups.items()},
        "optimizer": [state.optimizer.name, state.optimizer.steps],
        "looks": [asdict(look) for look in (state.best_look, *state.looks)],
    }


def _unpacked(
    told: Mapping[str, Any], prefix: str, arrays: Mapping[str, Array], like: Mapping[str, Array]
) -> Kept:
    groups = {
        group: {str(name): arrays[f"{prefix}{group}{number}"].copy() for number, name in enumerate(names)}
        for group, names in told["names"].items()
    }
    for group in ("now", "best"):
        if any(name not in like or array.shape != like[name].shape for name, array in groups[group].items()):
            raise ValueError("its weights are others")
    best, *looks = (Look(**look) for look in told["looks"])
    name, steps = told["optimizer"]
    state = State(
        **{name: told[name] for name in _NUMBERS},
        best=groups["best"],
        best_look=best,
        looks=looks,
        optimizer=Optimizer(name, steps, groups["moments"]),
    )
    return Kept(state, groups["now"])
