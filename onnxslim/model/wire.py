"""A bound on the memory that a protobuf message takes once parsed, found before parsing it.

Two bytes on the wire (an empty message) become a hundred in memory.  A large file is therefore walked over by
its wire format first: weights are skipped by their length prefix, and only messages are counted.

Spec: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from typing import Any

import onnx

from onnxslim.errors import ModelError, ResourceError
from onnxslim.model.limits import Limits

Descriptor = Any  # protobuf ships no types

__all__ = ["check_unfolding"]

_SMALL = 4 << 20  # whole files up to here unfold to 200 MB at most
_LEAF = 1 << 10  # a message up to this size is not looked into, but counted as if full of empty ones
_MESSAGES_PER_NODE = 15  # attributes, value infos and their parts


def check_unfolding(content: bytes, where: str, limits: Limits) -> None:
    """Refuse content with far more messages than ``limits.max_nodes`` nodes have.

    Raises:
        ResourceError: beyond the limit.
        ModelError: where the wire format is broken.
    """
    if len(content) <= _SMALL:
        return
    budget = _MESSAGES_PER_NODE * limits.max_nodes
    try:
        for leaf in (_LEAF, 0):  # the rough count suffices for nearly all files
            if _messages(content, 0, len(content), onnx.ModelProto.DESCRIPTOR, leaf, budget) <= budget:
                return
    except (IndexError, RecursionError, _BrokenError) as error:
        hint = "the file is cut short, damaged or of another format"
        raise ModelError("this is no ONNX model: protobuf cannot parse it", where=where, hint=hint) from error
    what = f"the model has more than {budget:,} parts, far beyond {limits.max_nodes:,} nodes"
    raise ResourceError(what, where=where, hint="load(limits=Limits(max_nodes=...)) raises the limit")


class _BrokenError(Exception):
    pass


def _messages(data: bytes, start: int, end: int, kind: Descriptor, leaf: int, budget: int) -> int:
    """Messages in ``data[start:end]``; counting stops beyond ``budget``."""
    if end - start <= leaf:
        return 1 + (end - start) // 2
    fields = _message_fields(kind)
    count, position = 1, start
    while position < end and count <= budget:
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                _, position = _varint(data, position)
            case 1:
                position += 8
            case 5:
                position += 4
            case 2:
                size, position = _varint(data, position)
                child = fields.get(tag >> 3)
                if position + size > end:
                    raise _BrokenError
                if child is not None:
                    count += _messages(data, position, position + size, child, leaf, budget - count)
                position += size
            case _:
                raise _BrokenError
    return count


def _message_fields(kind: Descriptor) -> dict[int, Descriptor]:
    return {field.number: field.message_type for field in kind.fields if field.message_type is not None}


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value, shift = data[position], 0
    if value < 0x80:  # nearly all are that short
        return value, position + 1
    value = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise _BrokenError
