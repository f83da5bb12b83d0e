"""Where the zoo's files are: what packages ship in the folder ZOO, what this repository ships beside it.

The environment variable ZOO names the folder that ``python -m benchmarks.zoo`` filled.  A variable, since the
functions of the tasks are called by other programs, which hand them nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
TASKS = sorted(path.stem for path in (HERE / "tasks").glob("[!_]*.py"))
_COMMAND = "python -m benchmarks.zoo"


def root() -> Path:
    """The folder that was filled by ``python -m benchmarks.zoo``.

    Raises:
        FileNotFoundError: ZOO is not set.
    """
    folder = os.environ.get("ZOO")
    if not folder:
        raise FileNotFoundError(f"set ZOO to the folder that {_COMMAND} filled")
    return Path(folder)


def model_path(name: str) -> Path:
    """The file of a model.

    Raises:
        FileNotFoundError: it is not there.
    """
    shipped = EXAMPLES / "digits.onnx" if name == "mnist_resnet14" else HERE / "models" / f"{name}.onnx"
    path = shipped if shipped.is_file() else root() / "models" / f"{name}.onnx"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; see {_COMMAND} --help")
    return path


def task(name: str) -> ModuleType:
    """The task of that name; what it needs to import may be missing."""
    return importlib.import_module(f"benchmarks.zoo.tasks.{name}")


def use(folder: Path) -> None:
    """Let ZOO name ``folder``, here and in the processes that are started from here."""
    os.environ["ZOO"] = str(folder.resolve())


def check_names(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Stop with a usage error at names without a task."""
    unknown = sorted(set(names) - set(TASKS))
    if unknown:
        parser.error(f"there is no task for {', '.join(unknown)}; there are {', '.join(TASKS)}")


def auxiliary(name: str) -> Path:
    """A tokenizer, dictionary or list of classes that belongs to a model."""
    return root() / "data" / "aux" / name
