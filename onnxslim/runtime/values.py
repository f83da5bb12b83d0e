"""Values on the client's side: numpy arrays, with ml_dtypes for the element types that numpy lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np

from onnxslim.runtime.framing import BITS, Raw

__all__ = ["TensorInfo", "Value", "lift", "lower"]

# a tensor, a sequence of tensors, or an empty optional
Value: TypeAlias = "np.ndarray[Any, Any] | list[Any] | None"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output as onnxruntime declares it.

    Attributes:
        name: as in the model.
        dtype: numpy's name of the element type ("float32", "bfloat16", "int4"), or "string".
        shape: a fixed dimension is an int, a symbolic one its name, an unknown one None; the whole is None
            for sequences, and for tensors of unknown rank.
        kind: what the elements are held in.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    kind: Literal["tensor", "sequence", "optional", "map", "other"] = "tensor"


def lower(item: Any) -> Any:
    """``item`` with every ml_dtypes array in it as a :class:`~onnxslim.runtime.framing.Raw`."""
    if isinstance(item, np.ndarray) and item.dtype.name in BITS:
        bits = BITS[item.dtype.name]
        content = np.asarray(item, order="C").reshape(-1).view(np.uint8)
        return Raw(item.dtype.name, item.shape, content if bits >= 8 else _packed(content, bits))
    if isinstance(item, Mapping):
        return {key: lower(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [lower(each) for each in item]
    return item


def lift(raw: Raw) -> np.ndarray[Any, Any]:
    """The inverse of :func:`lower` for one tensor."""
    dtype = np.dtype(getattr(ml_dtypes, raw.dtype))
    bits, size = BITS[raw.dtype], int(np.prod(raw.shape, dtype=np.int64))
    content = raw.data if bits >= 8 else _unpacked(raw.data, bits, size)
    if raw.dtype.startswith("int") and bits < 8:  # ml_dtypes holds signed ones extended to a byte
        shift = 8 - bits
        content = ((content << shift).view(np.int8) >> shift).view(np.uint8)
    lifted: np.ndarray[Any, Any] = content.view(dtype).reshape(raw.shape)
    return lifted


def _packed(content: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    per_byte = 8 // bits
    padded = np.zeros(-(-content.size // per_byte) * per_byte, np.uint8)
    padded[: content.size] = content & ((1 << bits) - 1)
    fields = padded.reshape(-1, per_byte) << (np.arange(per_byte, dtype=np.uint8) * bits)
    return np.asarray(np.bitwise_or.reduce(fields, axis=1), np.uint8)


def _unpacked(content: np.ndarray[Any, Any], bits: int, size: int) -> np.ndarray[Any, Any]:
    shifts = np.arange(8 // bits, dtype=np.uint8) * bits
    fields = (content[:, None] >> shifts) & ((1 << bits) - 1)
    return np.asarray(fields.reshape(-1)[:size], np.uint8)
