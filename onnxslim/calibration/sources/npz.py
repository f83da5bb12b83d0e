"""Reading ``.npz`` files that may be large, broken or hostile: nothing is unpickled, sizes are checked first.

The arrays of a compressed archive are inflated row by row, so that memory does not depend on their length.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import contextlib
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from onnxslim.calibration.sources.base import (
    LABELS,
    MAX_FEED_BYTES,
    Sample,
    regular_file,
)
from onnxslim.calibration.sources.rows import Column, Rows
from onnxslim.errors import CalibrationError, OnnxSlimError, ResourceError
from onnxslim.runtime.values import TensorInfo

__all__ = ["NpzFolder", "NpzMember", "npz_rows", "open_npz"]

_MAX_MEMBER_BYTES = 64 << 30  # inflating more than this is an attack, or not calibration data
_SKIP_BYTES = 1 << 20


class NpzMember:
    """One array of an open archive, read forwards along its first axis."""

    def __init__(self, stream: IO[bytes], size: int, where: str) -> None:
        self._stream = stream
        self._where = where
        self._position = 0
        with _clear_errors(where):
            version = npy.read_magic(self._stream)
            if version not in ((1, 0), (2, 0)):
                raise CalibrationError("the array has a type that no model takes", where=self._where)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            self.shape, self._fortran, self.dtype = read_header(self._stream)
        if self.dtype.hasobject:
            raise CalibrationError(
                "the array holds pickled Python objects, which are never loaded",
                where=self._where,
                hint="save strings with a fixed-width type: array.astype(str)",
            )
        if self.dtype.names or any(n < 0 for n in self.shape):
            raise CalibrationError("the array has a type that no model takes", where=self._where)
        self._bytes = math.prod(self.shape) * self.dtype.itemsize
        if self._bytes > _MAX_MEMBER_BYTES:
            raise ResourceError(f"the array declares {self._bytes} bytes", where=self._where)
        held = size - stream.tell()
        if held != self._bytes:
            raise CalibrationError(
                f"the array's shape and type need {self._bytes} bytes, the file holds {held}",
                where=self._where,
            )
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._columnwise: np.ndarray | None = None

    def whole(self) -> np.ndarray:
        """The array at once; must come before any ``read``."""
        _check_size(self._bytes, self._where)
        flat = np.frombuffer(self._take(self._bytes), self.dtype) if self._bytes else np.empty(0, self.dtype)
        return flat.reshape(self.shape, order="F" if self._fortran and len(self.shape) > 1 else "C")

    def read(self, start: int, stop: int) -> np.ndarray:
        if self._fortran and len(self.shape) > 1:  # its rows lie scattered over the file
            if self._columnwise is None:
                self._columnwise = self.whole()
            return self._columnwise[start:stop]
        stop = min(stop, self.shape[0])
        size = (stop - start) * self._row_bytes
        _check_size(size, self._where)
        skip = start * self._row_bytes - self._position
        while skip > 0:
            skip -= len(self._take(min(skip, _SKIP_BYTES)))
        shape = (stop - start, *self.shape[1:])
        return (
            np.frombuffer(self._take(size), self.dtype).reshape(shape)
            if size
            else np.empty(shape, self.dtype)
        )

    def _take(self, size: int) -> bytes:
        with _clear_errors(self._where):
            data = self._stream.read(size)
        if len(data) != size:
            raise CalibrationError("the file is cut short", where=self._where)
        self._position += size
        return data


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, NpzMember]]:
    """The arrays of an ``.npz`` file by name, each to be read forwards.

    Raises:
        CalibrationError: not an archive of arrays, cut short, or one that holds Python objects.
        ResourceError: a declared size is beyond any calibration data.
    """
    where = str(path)
    with contextlib.ExitStack() as stack:
        with _clear_errors(where):
            archive = stack.enter_context(zipfile.ZipFile(regular_file(path)))
            entries = archive.infolist()
        names = [entry.filename.removesuffix(".npy") for entry in entries]
        if len(set(names)) != len(names):
            raise CalibrationError("two arrays in the file have the same name", where=where)
        members: dict[str, NpzMember] = {}
        for name, entry in zip(names, entries, strict=True):
            with _clear_errors(where):
                stream = stack.enter_context(archive.open(entry))
            members[name] = NpzMember(stream, entry.file_size, f"{where}, array '{name}'")
        yield members


@contextlib.contextmanager
def _clear_errors(where: str) -> Iterator[None]:
    """Damage makes zipfile, the decompressors and numpy's header parser raise nearly anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser remarks on headers that it had to mend
            yield
    except OnnxSlimError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise CalibrationError(f"not a readable .npz file: {reason}", where=where) from error


def _check_size(size: int, where: str) -> None:
    if size > MAX_FEED_BYTES:
        raise ResourceError(f"one feed would need {size} bytes", where=where)


def npz_rows(path: Path, inputs: Sequence[TensorInfo], batch: int | None) -> Rows:
    """The feeds of one ``.npz`` file whose arrays have the samples along their first axis."""

    @contextlib.contextmanager
    def columns() -> Iterator[Mapping[str, Column]]:
        with open_npz(path) as members:
            yield members

    return Rows(columns, str(path), inputs, batch)


class NpzFolder:
    """A folder of ``.npz`` files in the order of their names; each is one complete feed."""

    sized = True

    def __init__(self, files: Sequence[Path], where: str) -> None:
        self._files = list(files)
        self.description = f"{where}: {len(self._files)} .npz files"

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Sample]:
        for i in range(len(self._files)) if indices is None else indices:
            with open_npz(self._files[i]) as members:
                feed: dict[str, Any] = {name: member.whole() for name, member in members.items()}
            yield Sample(i, str(self._files[i]), feed, feed.pop(LABELS, None))
