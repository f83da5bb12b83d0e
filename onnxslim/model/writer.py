"""Atomic writing of a model: the old file stays whole until the new one is."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from onnxslim._ir import ir
from onnxslim.errors import OptionError, ResourceError
from onnxslim.model.edit import scopes
from onnxslim.model.hashing import content_chunks, is_external
from onnxslim.model.protos import inlined, tensors_of

__all__ = [
    "check_destination",
    "commit",
    "large_tensors",
    "relocated",
    "remove_stale_data",
    "temporary_folder",
    "write_data",
    "write_proto",
]

TensorKey = int | tuple[str, int, int]

ALIGNMENT = 64  # of tensors in external data: a cache line, and more than any dtype needs
EXTERNAL_THRESHOLD = 1024  # bytes; smaller tensors stay in the model file, as in onnx's own helper


def check_destination(path: Path, *, force: bool) -> None:
    """Refuse a destination that exists (without ``force``), or that no file can take the place of.

    Raises:
        OptionError: for an existing file without ``force``, a folder, a device, a pipe, a missing folder.
    """
    if not path.parent.is_dir():
        raise OptionError(
            "the output's folder does not exist", where=str(path), hint="create the folder first"
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OptionError("the output is not a regular file", where=str(path), hint="name a file to write")
    if not force:
        raise OptionError(
            "the output exists already", where=str(path), hint="--force (force=True) replaces it"
        )


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``; gone afterwards, whatever happens.

    Files are written in there and renamed into place, so that a reader, a full disk or a kill at any moment
    meets either the old file or the new one.

    Raises:
        ResourceError: when the system refuses to write (disk full, no permission, file too large).
    """
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent))
        yield folder
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "free some space or choose another folder; what was there before is untouched"
        raise ResourceError(f"cannot write the model: {reason}", where=str(path), hint=hint) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def large_tensors(model: ir.Model) -> dict[TensorKey, ir.TensorProtocol]:
    """The tensors that go to external data, each content once however many initializers share it."""
    return {
        _key(tensor): tensor
        for scope in scopes(model)
        for value in (scope.graph if isinstance(scope, ir.Function) else scope).initializers.values()
        if (tensor := value.const_value) is not None
        and tensor.dtype != ir.DataType.STRING
        and tensor.nbytes >= EXTERNAL_THRESHOLD
    }


def _key(tensor: ir.TensorProtocol) -> TensorKey:
    if is_external(tensor):
        return tensor.path, tensor.offset or 0, tensor.nbytes
    return id(tensor)


def write_data(tensors: list[ir.TensorProtocol], path: Path) -> tuple[list[tuple[int, int]], str]:
    """Write tensors one after the other, in chunks; return their (offset, length) and 8 hex of the hash."""
    digest = hashlib.blake2b(digest_size=4)
    places: list[tuple[int, int]] = []
    position = 0
    with path.open("wb", buffering=0) as file:

        def write(content: bytes | memoryview) -> int:
            digest.update(content)
            return _write_all(file, content)

        for tensor in tensors:
            start = position + write(bytes(-position % ALIGNMENT))
            position = start + sum(write(chunk) for chunk in content_chunks(tensor))
            places.append((start, position - start))
        os.fsync(file.fileno())
    return places, digest.hexdigest()


def relocated(
    tensor: ir.TensorProtocol, places: dict[TensorKey, tuple[int, int]], location: str
) -> ir.TensorProtocol:
    """The tensor as a reference to its place in the file ``location``; unchanged if it has none there."""
    place = places.get(_key(tensor))
    if place is None:
        return inlined(tensor)
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        location,
        *place,
        tensor.dtype,
        shape=shape,
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def write_proto(proto: onnx.ModelProto, path: Path) -> None:
    """Write a serialised model and make it durable."""
    with path.open("wb", buffering=0) as file:
        _write_all(file, proto.SerializeToString(deterministic=True))
        os.fsync(file.fileno())


def _write_all(file: io.FileIO, content: bytes | memoryview) -> int:
    view = memoryview(content)
    while view:  # a raw write may take only a part
        view = view[file.write(view) :]
    return len(content)


def commit(folder: Path, path: Path, data: Path | None) -> None:
    """Rename what ``folder`` holds into place, the model last: it is the commit point."""
    if data is None:
        (folder / "model").replace(path)
        _sync(path.parent)
        return
    existed = data.exists()
    (folder / "data").replace(data)
    try:
        _sync(path.parent)
        (folder / "model").replace(path)
    except BaseException:
        if not existed:
            data.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale_data(path: Path, data: Path | None, model: ir.Model) -> None:
    """Remove the data files that earlier saves to ``path`` left, all but ``data``.

    Tensors of ``model`` that live in one of them are mapped first: the map keeps them readable.
    """
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}\.data")
    stale = [
        entry
        for entry in path.parent.iterdir()
        if pattern.fullmatch(entry.name) and entry != data and entry.is_file() and not entry.is_symlink()
    ]
    if not stale:
        return
    for tensor in tensors_of(model):
        if is_external(tensor) and any(_same_file(tensor.path, entry) for entry in stale):
            tensor.numpy()
    for entry in stale:
        entry.unlink(missing_ok=True)


def _same_file(a: str, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)  # noqa: PTH121
    except OSError:
        return False
