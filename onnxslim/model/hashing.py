"""Digests of tensors, and keys of attributes: equal exactly when every bit is."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir

__all__ = [
    "CHUNK",
    "array_of",
    "attribute_key",
    "content_chunks",
    "file_digest",
    "is_external",
    "number_chunks",
    "tensor_digest",
]

Array = npt.NDArray[Any]

_PLAIN = frozenset(
    {ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING, ir.AttributeType.STRINGS}
)
CHUNK = 1 << 22  # 4 MiB: large enough for full disk speed, small enough to vanish in the process


def tensor_digest(tensor: ir.TensorProtocol) -> bytes:
    """A 32-byte BLAKE2 digest over dtype, shape and content.

    Signed zeros and NaN payloads are told apart, since bits are hashed, never values.  Content is read in
    chunks; external data is read from its file, never through the memory map, so that a file of any size
    costs no resident memory.

    Raises:
        OSError: if external data cannot be read.

    Example:
        >>> a, b = ir.tensor(np.zeros(2, np.float32)), ir.tensor(-np.zeros(2, np.float32))
        >>> tensor_digest(a) == tensor_digest(b)
        False
    """
    digest = hashlib.blake2b(f"{tensor.dtype.name}{list(tensor.shape.numpy())}".encode(), digest_size=32)
    for chunk in content_chunks(tensor):
        digest.update(chunk)
    return digest.digest()


def is_external(tensor: ir.TensorProtocol) -> TypeGuard[ir.ExternalTensor]:
    """Whether the content is in a file; ``isinstance`` takes 25 us, for onnx_ir's classes are protocols."""
    return type(tensor) is ir.ExternalTensor


def content_chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    """The tensor's content as in ``raw_data`` (little-endian, packed), in pieces of at most ``CHUNK`` bytes.

    Strings are length-prefixed, so that ``["ab", ""]`` differs from ``["a", "b"]``.
    """
    if is_external(tensor):
        yield from _file_chunks(tensor)
    elif tensor.dtype == ir.DataType.STRING:
        for string in tensor.string_data():  # type: ignore[attr-defined]
            yield len(string).to_bytes(8, "little") + string
    else:
        content = _content(tensor)
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]


def number_chunks(tensor: ir.TensorProtocol, count: int = 1 << 18) -> Iterator[Array]:
    """The elements of a tensor of whole bytes, row by row: ``count`` at a time, fewer at the end.

    Example:
        >>> [chunk.tolist() for chunk in number_chunks(ir.tensor(np.int8([[1, 2], [3, 4], [5, 6]])), 4)]
        [[1, 2, 3, 4], [5, 6]]
    """
    dtype = tensor.dtype.numpy()
    held = bytearray()
    for piece in content_chunks(tensor):
        held += piece
        whole = len(held) // (count * dtype.itemsize) * count
        if whole:
            numbers = np.frombuffer(bytes(held[: whole * dtype.itemsize]), dtype)
            del held[: whole * dtype.itemsize]
            yield from (numbers[start : start + count] for start in range(0, whole, count))
    if held:
        yield np.frombuffer(bytes(held), dtype)


def array_of(tensor: ir.TensorProtocol) -> Array:
    """The content to read, mapped for as long as the array lives; the tensor itself would stay mapped."""
    if is_external(tensor) and tensor.nbytes and tensor.dtype.bitwidth >= 8 and _left_map(tensor) is None:
        shape = tuple(tensor.shape.numpy())
        return np.memmap(tensor.path, tensor.dtype.numpy(), "r", tensor.offset or 0, shape)
    return tensor.numpy()


def _content(tensor: ir.TensorProtocol) -> memoryview:
    """The bytes, without a copy where the tensor is a plain little-endian array already."""
    array: Any = tensor.raw if isinstance(tensor, ir.Tensor) and tensor.dtype.bitwidth >= 8 else None
    if isinstance(array, np.ndarray) and array.flags.c_contiguous and array.dtype.byteorder != ">":
        return array.reshape(-1).view(np.uint8).data
    return memoryview(tensor.tobytes())


def _file_chunks(tensor: ir.ExternalTensor) -> Iterator[bytes]:
    if (left := _left_map(tensor)) is not None:
        start = tensor.offset or 0
        for position in range(start, start + tensor.nbytes, CHUNK):
            yield left[position : min(position + CHUNK, start + tensor.nbytes)]
        return
    remaining = tensor.nbytes
    with Path(tensor.path).open("rb", buffering=0) as file:
        file.seek(tensor.offset or 0)
        while remaining:
            chunk = file.read(min(CHUNK, remaining))
            if not chunk:
                raise OSError(f"{tensor.path} ends before tensor {tensor.name!r} does")
            remaining -= len(chunk)
            yield chunk


def _left_map(tensor: ir.ExternalTensor) -> mmap.mmap | None:
    """The map of a tensor whose file a later save has replaced."""
    return None if tensor.raw is None or Path(tensor.path).exists() else tensor.raw


def file_digest(*paths: str | os.PathLike[str]) -> str:
    """The sha256 of files one after the other, as hex, read in chunks."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def attribute_key(attribute: ir.Attr) -> tuple[str, ...]:
    """Equal exactly when the attributes are, floats bit by bit."""
    if attribute.is_ref():
        return ("reference", str(attribute.ref_attr_name))
    match attribute.type:
        case ir.AttributeType.FLOAT:
            content = struct.pack("<d", attribute.as_float()).hex()
        case ir.AttributeType.FLOATS:
            floats = attribute.as_floats()
            content = struct.pack(f"<{len(floats)}d", *floats).hex()
        case ir.AttributeType.TENSOR:
            content = tensor_digest(attribute.as_tensor()).hex()
        case kind if kind in _PLAIN:
            content = repr(attribute.value)
        case _:
            content = f"only itself: {id(attribute)}"
    return (str(attribute.type), content)
