"""Messages between client and worker: a JSON header followed by raw buffers.

    magic (4 bytes) | header length (8 bytes, little endian) | header | buffer | buffer | ...

The header is ``{"tree": ..., "sizes": [bytes of each buffer]}``; in the tree, arrays stand as small objects
that point to their buffer.  Not pickle: neither side can be made to execute what the other sends.

Both sides import this module, and the worker has numpy and the standard library only; element types that
numpy lacks (bfloat16, the 8-bit floats, 4-bit integers) travel as :class:`Raw`, in onnxruntime's own layout.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

__all__ = ["BITS", "BOUND", "SESSION", "Raw", "encode", "read", "write"]

_HEADER = struct.Struct("<4sQ")
_MAGIC = b"OXS1"

SESSION = "__session__"  # {SESSION: number} among the arguments of a call stands for a session
# {BOUND: number, "device": name or None}: for the function that makes a call without arguments from a feed
BOUND = "__bound__"

# bits per element of the types that numpy lacks; below 8, elements are packed from the low bits up
BITS = {
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8,
    "float4_e2m1fn": 4,
    "int4": 4,
    "uint4": 4,
    "int2": 2,
    "uint2": 2,
}


class Raw(NamedTuple):
    """A tensor of a type that numpy lacks: its bytes as onnxruntime holds them."""

    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray[Any, Any]


def encode(tree: Any) -> list[memoryview]:
    """The pieces of one message.

    Args:
        tree: JSON-able, with arrays, ``bytes``, :class:`Raw` and tuples (which arrive as lists) anywhere.

    Raises:
        TypeError: for anything else in it.
    """
    buffers: list[memoryview] = []
    packed = _pack(tree, buffers)
    header = json.dumps({"tree": packed, "sizes": [buffer.nbytes for buffer in buffers]}).encode()
    return [memoryview(_HEADER.pack(_MAGIC, len(header)) + header), *buffers]


def write(stream: BinaryIO, message: list[memoryview]) -> None:
    """Write one message; ``stream`` is unbuffered."""
    for piece in message:
        _write_all(stream, piece)


def _write_all(stream: BinaryIO, view: memoryview) -> None:
    while view.nbytes:
        view = view[stream.write(view) :]


def _pack(item: Any, buffers: list[memoryview]) -> Any:
    if item is None or isinstance(item, bool | int | float | str):
        return item
    if isinstance(item, Raw):
        return _buffer(item.data, {"raw": item.dtype, "shape": item.shape}, buffers)
    if isinstance(item, np.ndarray):
        if item.dtype.kind in "OUS":
            return {"strings": [_text(text) for text in item.reshape(-1).tolist()], "shape": item.shape}
        if item.dtype.kind not in "biufc" or item.dtype.isbuiltin == 2:
            raise TypeError(f"arrays of {item.dtype} cannot be sent")
        native = np.asarray(item, dtype=item.dtype.newbyteorder("="), order="C")
        return _buffer(native, {"array": native.dtype.str, "shape": native.shape}, buffers)
    if isinstance(item, np.generic):
        return item.item()
    if isinstance(item, bytes | bytearray | memoryview):
        return _buffer(np.frombuffer(item, np.uint8), {"bytes": len(item)}, buffers)
    if isinstance(item, list | tuple):
        return [_pack(each, buffers) for each in item]
    if isinstance(item, Mapping):
        return {"map": [[str(key), _pack(value, buffers)] for key, value in item.items()]}
    raise TypeError(f"a {type(item).__name__} cannot be sent")


def _text(item: Any) -> str:
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)


def _buffer(array: np.ndarray[Any, Any], mark: dict[str, Any], buffers: list[memoryview]) -> dict[str, Any]:
    mark["at"] = len(buffers)
    buffers.append(array.reshape(-1).view(np.uint8).data)
    return mark


def read(stream: BinaryIO, lift: Callable[[Raw], Any] = lambda raw: raw) -> Any:
    """Read one message.

    Args:
        lift: makes a value of each :class:`Raw`.

    Raises:
        EOFError: the other side is gone.
    """
    magic, length = _HEADER.unpack(_read_exactly(stream, _HEADER.size).tobytes())
    if magic != _MAGIC:
        raise EOFError("the stream holds something other than our messages")
    header = json.loads(_read_exactly(stream, length).tobytes())
    buffers = [_read_exactly(stream, size) for size in header["sizes"]]
    return _unpack(header["tree"], buffers, lift)


def _read_exactly(stream: BinaryIO, size: int) -> np.ndarray[Any, Any]:
    content = np.empty(size, np.uint8)
    view = content.data
    while view.nbytes:
        got = stream.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the stream ended")
        view = view[got:]
    return content


def _unpack(item: Any, buffers: list[np.ndarray[Any, Any]], lift: Callable[[Raw], Any]) -> Any:
    if isinstance(item, list):
        return [_unpack(each, buffers, lift) for each in item]
    if not isinstance(item, dict):
        return item
    if "map" in item:
        return {key: _unpack(value, buffers, lift) for key, value in item["map"]}
    if "strings" in item:
        strings = np.empty(len(item["strings"]), object)
        strings[:] = item["strings"]
        return strings.reshape(item["shape"])
    data = buffers[item["at"]]
    if "bytes" in item:
        return data.tobytes()
    if "raw" in item:
        return lift(Raw(item["raw"], tuple(item["shape"]), data))
    return data.view(item["array"]).reshape(item["shape"])
