"""What a model is sent as: its message, or the path of a file when it is too large for one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxslim._ir import ir
from onnxslim.errors import ModelError
from onnxslim.model import io
from onnxslim.model.build import serialized
from onnxslim.model.hashing import is_external
from onnxslim.model.protos import graphs_of, tensors_of
from onnxslim.model.sizes import weight_bytes

__all__ = ["DATA_FOLDER", "Payload", "RunnableModel", "payload_of"]

RunnableModel = ir.Model | onnx.ModelProto | str | os.PathLike[str] | bytes

DATA_FOLDER = "session.model_external_initializers_file_folder_path"
_LARGE = 1 << 30  # in-memory weights above this go through a file, which the worker maps


@dataclass(frozen=True, slots=True)
class Payload:
    """``model`` is a message or a path; ``weights`` bounds the bytes that the runtime will hold for it."""

    model: bytes | str
    weights: int
    config: dict[str, str]


@contextlib.contextmanager
def payload_of(model: RunnableModel) -> Iterator[Payload]:
    """What to send for ``model``; a temporary file lives while the context is open.

    Raises:
        ModelError: for a path that is no regular file.
        ResourceError: if the temporary file does not fit the disk.
    """
    if isinstance(model, bytes):
        yield Payload(model, len(model), {})
    elif isinstance(model, onnx.ModelProto):
        yield Payload(model.SerializeToString(), model.ByteSize(), {})
    elif isinstance(model, ir.Model):
        with _of_ir(model) as payload:
            yield payload
    else:
        yield _of_path(Path(model))


def _of_path(path: Path) -> Payload:
    if not path.is_file():  # a FIFO or a device would block for ever
        reason = "is not a regular file" if path.exists() else "does not exist"
        raise ModelError(f"the model {reason}", where=str(path), hint="check the path")
    return Payload(str(path.resolve()), path.stat().st_size + _external_bytes(path), {})


def _external_bytes(path: Path) -> int:
    """Size of the data files that a model names; the runtime finds and checks them itself."""
    content = path.read_bytes()
    if b"location" not in content:  # the key that external data cannot lack
        return 0
    try:
        proto = onnx.ModelProto.FromString(content)
    except DecodeError:
        return 0  # the runtime will say so
    names = {
        entry.value
        for graph in graphs_of(proto)
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = (path.parent / name for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())


@contextlib.contextmanager
def _of_ir(model: ir.Model) -> Iterator[Payload]:
    size = weight_bytes(model)
    external = [tensor for tensor in tensors_of(model) if is_external(tensor)]
    folders = {str(Path(tensor.base_dir).resolve()) for tensor in external}
    if len(folders) <= 1 and size - sum(tensor.nbytes for tensor in external) <= _LARGE:
        config = {DATA_FOLDER: folders.pop()} if folders else {}
        yield Payload(serialized(model).SerializeToString(), size, config)
        return
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as name:
        path = Path(name) / "model.onnx"
        io.save(model, path, external_data=True)
        yield Payload(str(path), size, {})
