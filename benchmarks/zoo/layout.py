"""Where the zoo's files are: what packages ship in the folder ZOO, what this repository ships beside it.

The environment variable ZOO names the folder that :mod:`benchmarks.zoo.fetch` filled.  A variable, since the
functions of the tasks are called by other programs, which hand them nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
_SHIPPED = {
    "mnist_resnet14": EXAMPLES / "digits.onnx",
    "mnist_mobilenetv2": HERE / "models" / "mnist_mobilenetv2.onnx",
}


def root() -> Path:
    """The folder that was filled by ``python -m benchmarks.zoo.fetch``.

    Raises:
        FileNotFoundError: ZOO is not set.
    """
    folder = os.environ.get("ZOO")
    if not folder:
        raise FileNotFoundError("set ZOO to the folder that python -m benchmarks.zoo.fetch filled")
    return Path(folder)


def model_path(name: str) -> Path:
    """The file of a model.

    Raises:
        FileNotFoundError: it is not there.
    """
    path = _SHIPPED.get(name) or root() / "models" / f"{name}.onnx"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; see python -m benchmarks.zoo.fetch --help")
    return path


def auxiliary(name: str) -> Path:
    """A tokenizer, dictionary or list of classes that belongs to a model."""
    return root() / "data" / "aux" / name
