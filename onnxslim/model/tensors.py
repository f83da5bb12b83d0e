"""Is a tensor message what it says: a known type, sane dimensions, exactly the bytes that they need?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from onnxslim._ir import ir
from onnxslim.errors import ModelError

__all__ = ["RE_EXPORT", "check_tensor", "content_bytes", "known_type", "shown"]

_BITS = {
    int(dtype): dtype.bitwidth
    for dtype in ir.DataType
    if dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING)
}
_STRING = int(ir.DataType.STRING)
RE_EXPORT = "export the model again"

# The typed field of each element type (onnx.proto, TensorProto); all others live in int32_data.
_FIELDS = {
    "FLOAT": "float_data",
    "COMPLEX64": "float_data",
    "DOUBLE": "double_data",
    "COMPLEX128": "double_data",
    "INT64": "int64_data",
    "UINT32": "uint64_data",
    "UINT64": "uint64_data",
    "STRING": "string_data",
}
_FIELD_OF = {int(dtype): _FIELDS.get(dtype.name, "int32_data") for dtype in ir.DataType}
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


_RANK = 64  # numpy's limit


def shown(name: object, limit: int = 60) -> str:
    """A name from the file as it may stand in a message: quoted, on one line, not too long.

    Example:
        >>> shown("a\\nb")
        "'a\\\\nb'"
    """
    text = repr(name)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def known_type(code: int) -> bool:
    """Whether ``code`` names an element type of ONNX."""
    return code in _BITS or code == _STRING


def content_bytes(data_type: int, dims: Sequence[int]) -> int:
    """The bytes of a tensor of numbers in ``raw_data``: elements of less than a byte are packed."""
    return int(math.prod(dims) * _BITS[data_type] + 7) // 8


def check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    """Check element type, dimensions and the amount of data; external data is checked elsewhere.

    Raises:
        ModelError: naming what does not fit.
    """
    where = f"{where}, tensor {shown(tensor.name)}"
    if not known_type(tensor.data_type):
        raise ModelError(f"unknown element type {tensor.data_type}", where=where, hint=RE_EXPORT)
    if len(tensor.dims) > _RANK:
        raise ModelError(
            f"a tensor has {len(tensor.dims)} dimensions", where=where, hint=f"at most {_RANK} are possible"
        )
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError("a tensor has a negative dimension", where=where, hint=RE_EXPORT)
    if tensor.HasField("segment"):
        raise ModelError("tensors in segments are not part of ONNX any more", where=where, hint=RE_EXPORT)
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    filled = [field for field in _TYPED if len(getattr(tensor, field))]
    if tensor.HasField("raw_data") and (not external or tensor.raw_data):
        filled.append("raw_data")
    if external:
        _check_external(tensor, filled, where)
    elif tensor.data_type == _STRING:
        _compare("string_data", len(tensor.string_data), math.prod(tensor.dims), filled, where)
    elif filled == ["raw_data"]:
        needed = content_bytes(tensor.data_type, tensor.dims)
        _compare("raw_data", len(tensor.raw_data), needed, filled, where)
    else:
        field = _FIELD_OF[tensor.data_type]
        _compare(field, len(getattr(tensor, field)), _entries(tensor), filled, where)


def _check_external(tensor: onnx.TensorProto, filled: list[str], where: str) -> None:
    if tensor.data_type == _STRING:
        raise ModelError("strings cannot be external data", where=where, hint=RE_EXPORT)
    if filled:
        raise ModelError(f"data is both external and in {filled[0]}", where=where, hint=RE_EXPORT)


def _compare(field: str, found: int, needed: int, filled: list[str], where: str) -> None:
    extra = [name for name in filled if name != field]
    if extra and (filled != ["raw_data"] or needed):
        raise ModelError(f"data stands in {extra[0]} instead of {field} alone", where=where, hint=RE_EXPORT)
    if found != needed:
        unit = "bytes" if field == "raw_data" else "entries"
        what = f"type and shape need {needed} {unit} of {field}, there are {found}"
        raise ModelError(what, where=where, hint="the file may be cut short; export or copy it again")


def _entries(tensor: onnx.TensorProto) -> int:
    """Entries of the typed field: complex numbers take two, types of 4 and 2 bits are packed into bytes."""
    count: int = math.prod(tensor.dims)
    bits: int = int(_BITS[tensor.data_type])
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        return 2 * count
    return (count * bits + 7) // 8 if bits in (2, 4) else count
