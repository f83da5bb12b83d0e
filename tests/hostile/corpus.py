"""Hostile and odd files, generated: what must be refused, kept, or merely survived.

Every case writes its files into an empty folder and returns the path to give to the command line:

    refused   no valid model, or beyond a limit: a three-line error, exit code 2, nothing written
    kept      valid, however odd: simplified with equal outputs
    survived  valid, but running it would take gigabytes, for ever, or the process: either of the two above
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

__all__ = ["CASES", "Case", "Kind", "all_cases", "kept", "refused", "survived"]

Kind = Literal["refused", "kept", "survived"]
Maker = Callable[[Path], "Path | onnx.ModelProto | bytes"]


@dataclass(frozen=True)
class Case:
    """One file: ``group`` is its class of oddness, ``write`` makes it."""

    name: str
    group: str
    kind: Kind
    make: Maker

    def write(self, folder: Path) -> Path:
        """Make the case's files in ``folder`` and return the model's path."""
        made = self.make(folder)
        if isinstance(made, Path):
            return made
        path = folder / "model.onnx"
        path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
        return path


CASES: dict[str, Case] = {}


def _register(kind: Kind) -> Callable[[Maker], Maker]:
    def add(make: Maker) -> Maker:
        name = make.__name__.strip("_")
        assert name not in CASES, name
        CASES[name] = Case(name, make.__module__.rsplit("_", 1)[-1], kind, make)
        return make

    return add


refused = _register("refused")
kept = _register("kept")
survived = _register("survived")

_GROUPS = ("files", "structure", "tensors", "external", "functions", "odd", "bombs")


def all_cases(kind: Kind | None = None) -> list[Case]:
    """Every case, or those of one kind."""
    for group in _GROUPS:
        importlib.import_module(f"tests.hostile.cases_{group}")
    return [case for case in CASES.values() if kind in (None, case.kind)]
