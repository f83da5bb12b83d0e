"""Reading a model file that may be anything: a pipe, a device, a text, a bomb."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxslim.errors import ModelError, ResourceError
from onnxslim.model.limits import Limits
from onnxslim.model.wire import check_unfolding

__all__ = ["parse", "read"]

_SPARSE = 64 << 20


def read(path: Path, limits: Limits) -> bytes:
    """The content of a regular file, looked at before it is opened, so that nothing blocks.

    A symlink to the model file itself is followed.

    Raises:
        ModelError: if there is no such regular file, or it is empty or unreadable.
        ResourceError: if it is larger than the limit.
    """
    where = str(path)
    try:
        kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode))
        if kind:
            raise ModelError(
                f"the model is a {kind}, not a regular file", where=where, hint="name an .onnx file"
            )
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # it may have changed just now
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read the model: {_reason(error)}", where=where, hint="check the path"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
            raise ModelError(
                f"the model is a {kind}, not a regular file", where=where, hint="name an .onnx file"
            )
        if not status.st_size:
            raise ModelError("the model file is empty", where=where, hint="export or copy it again")
        if status.st_size > limits.max_proto_bytes:
            what = f"the model file has {status.st_size:,} bytes, the limit is {limits.max_proto_bytes:,}"
            raise ResourceError(what, where=where, hint="store the weights as external data")
        if status.st_size > _SPARSE and status.st_blocks * 512 < status.st_size // 16:
            raise ResourceError("the model file is a hole, not data", where=where, hint="copy it again")
        try:
            return file.read(status.st_size)
        except OSError as error:
            raise ModelError(f"cannot read the model: {_reason(error)}", where=where) from error


_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
}


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def parse(content: bytes, where: str, limits: Limits) -> onnx.ModelProto:
    """Parse a model message.

    Raises:
        ModelError: for malformed content.
        ResourceError: for content that would take far more memory than it has bytes.
    """
    check_unfolding(content, where, limits)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        if "MaxDepth" in str(error):
            raise ModelError(
                "the model nests too deeply", where=where, hint="see onnxslim.model.limits"
            ) from error
        hint = "the file is cut short, damaged or of another format; only binary .onnx files are read"
        raise ModelError("this is no ONNX model: protobuf cannot parse it", where=where, hint=hint) from error
    return proto
