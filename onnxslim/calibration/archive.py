"""States of tensors with a JSON head, in one ``.npz`` file; nothing in a file is trusted."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.calibration.joined import joined, separated
from onnxslim.calibration.observers import TensorState
from onnxslim.calibration.sources.npz import open_npz
from onnxslim.errors import CalibrationError

__all__ = ["DAMAGE", "read_archive", "write_archive", "write_npz"]

# what taking a damaged head or damaged arrays apart may raise
DAMAGE = (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


def write_archive(
    path: Path, head: Mapping[str, Any], states: Mapping[str, TensorState], *, compress: bool
) -> None:
    """Write to ``path`` in one step: an existing file is replaced whole or not at all.

    Raises:
        CalibrationError: the file cannot be written.
    """
    try:
        write_npz(path, head, joined(states), compress=compress)
    except OSError as error:
        raise CalibrationError(
            f"the calibration cannot be written: {error.strerror}", where=str(path)
        ) from error


def write_npz(
    path: Path, head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], *, compress: bool = False
) -> None:
    """Write arrays with a JSON head to ``path`` in one step: the old file stays whole until the new one is.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    content = {"head": np.frombuffer(json.dumps(dict(head)).encode(), np.uint8), **arrays}
    save = np.savez_compressed if compress else np.savez
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
        try:
            save(out, allow_pickle=False, **content)
            out.flush()
            os.fsync(out.fileno())
            Path(out.name).chmod(0o644)
            Path(out.name).replace(path)
        except BaseException:  # an interruption too must not leave half a file behind
            Path(out.name).unlink(missing_ok=True)
            raise


def read_archive(path: Path, schema: str) -> tuple[dict[str, Any], dict[str, TensorState]]:
    """Head and states of a file that :func:`write_archive` wrote.

    Raises:
        CalibrationError: not such a file, or of another schema; what else is damaged raises ``DAMAGE``.
    """
    where = str(path)
    with open_npz(path) as members:
        if "head" not in members:
            raise ValueError("it is no calibration")
        arrays = {name: member.whole() for name, member in members.items()}
    head = json.loads(arrays["head"].tobytes())
    if head["schema"] != schema:
        raise CalibrationError(f"the calibration has the unknown format {head['schema']!r}", where=where)
    return head, separated(arrays)
