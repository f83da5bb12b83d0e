"""Names, texts and types in a model message."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from onnxslim.errors import ModelError
from onnxslim.model.tensors import RE_EXPORT, known_type, shown

__all__ = ["check_entries", "check_name", "check_text", "check_type"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_NAME = 4096
_MAX_DEPTH = 16


def check_text(where: str, *texts: str | bytes) -> None:
    """Refuse invalid UTF-8, which protobuf hands out as bytes."""
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(f"{shown(text)} is not valid UTF-8", where=where, hint=RE_EXPORT)


def check_entries(entries: Iterable[onnx.StringStringEntryProto], where: str) -> None:
    """The same for metadata."""
    for entry in entries:
        check_text(where, entry.key, entry.value)


def check_name(name: str | bytes, what: str, where: str) -> None:
    """Refuse a name that is empty, endless, no UTF-8, or has control characters.

    Spec: https://github.com/onnx/onnx/blob/main/docs/IR.md#names-within-a-graph (which asks for C
    identifiers; no exporter keeps to that)
    """
    check_text(where, name)
    if not name:
        raise ModelError(f"the name of the {what} is empty", where=where, hint=RE_EXPORT)
    if len(name) > _MAX_NAME:
        raise ModelError(
            f"the {what} {shown(name)} has a name of {len(name)} characters", where=where, hint=RE_EXPORT
        )
    if _CONTROL.search(str(name)):
        raise ModelError(
            f"the {what} {shown(name)} has control characters in its name", where=where, hint=RE_EXPORT
        )


def check_type(kind: onnx.TypeProto, where: str, depth: int = 0) -> bool:
    """Check element types and dimensions, also inside sequences and maps; return whether there is a map.

    A dimension of -1, with which some exporters mean an unknown one, is made unknown.
    """
    if depth > _MAX_DEPTH:
        raise ModelError(f"a type nests deeper than {_MAX_DEPTH}", where=where, hint=RE_EXPORT)
    check_text(where, kind.denotation)
    form = kind.WhichOneof("value")
    if form in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(kind, form)
        if tensor.elem_type and not known_type(tensor.elem_type):
            raise ModelError(f"unknown element type {tensor.elem_type}", where=where, hint=RE_EXPORT)
        for dim in tensor.shape.dim:
            if dim.dim_value < -1:
                raise ModelError(f"negative dimension {dim.dim_value}", where=where, hint=RE_EXPORT)
            if dim.dim_value == -1:
                dim.ClearField("dim_value")
            else:
                check_text(where, dim.dim_param, dim.denotation)
    elif form in ("sequence_type", "optional_type"):
        element = getattr(kind, form).elem_type
        if element.WhichOneof("value") is None:
            raise ModelError("a sequence or optional has no element type", where=where, hint=RE_EXPORT)
        return check_type(element, where, depth + 1)
    elif form == "map_type":
        check_type(kind.map_type.value_type, where, depth + 1)
        return True
    return False
