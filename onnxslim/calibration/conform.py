"""Whether one feed fits the model's inputs; what is cast on the way is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from onnxslim._ir import ir
from onnxslim.calibration.sources.base import MAX_FEED_BYTES, Sample, suggest
from onnxslim.errors import CalibrationError, ResourceError
from onnxslim.runtime.values import TensorInfo

__all__ = ["conform", "input_infos", "numpy_dtype"]


def numpy_dtype(info: TensorInfo) -> np.dtype[Any] | None:
    """The numpy type of a tensor's elements; object for strings, None for sequences, maps and optionals.

    Example:
        >>> numpy_dtype(TensorInfo("x", "float16", (2,))), numpy_dtype(TensorInfo("x", "string", (2,)))
        (dtype('float16'), dtype('O'))
    """
    if info.kind != "tensor":
        return None
    return (
        np.dtype(object) if info.dtype == "string" else np.dtype(getattr(ml_dtypes, info.dtype, info.dtype))
    )


def input_infos(model: ir.Model) -> list[TensorInfo]:
    """The inputs that a caller of the model must feed: those without a default."""
    infos = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        shape = None
        if value.shape is not None:
            shape = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
        if isinstance(value.type, ir.TensorType):
            dtype = "string" if value.dtype == ir.DataType.STRING else value.type.dtype.numpy().name
            infos.append(TensorInfo(value.name or "", dtype, shape))
        else:
            infos.append(TensorInfo(value.name or "", str(value.type), None, "other"))
    return infos


def conform(sample: Sample, inputs: Sequence[TensorInfo], note: Callable[[str], None]) -> Sample:
    """The sample with each array in the type of its input.

    Floats are cast to the model's float type, other types only where every value is kept; ``note`` is told.

    Raises:
        CalibrationError: an input is missing, unknown, of the wrong rank, size or type, or holds NaN or Inf.
        ResourceError: the feed is larger than ``MAX_FEED_BYTES``.
    """
    names = [info.name for info in inputs]
    missing = [name for name in names if name not in sample.feed]
    extra = [name for name in sample.feed if name not in names]
    if missing:
        hint = f"the data holds {', '.join(map(repr, sample.feed)) or 'nothing'}"
        if extra:
            hint += f"; rename '{extra[0]}' if it is meant"
        raise CalibrationError(f"the input '{missing[0]}' is missing", where=sample.origin, hint=hint)
    if extra:
        raise CalibrationError(
            f"'{extra[0]}' is not an input of the model", where=sample.origin, hint=suggest(extra[0], names)
        )
    feed = {info.name: _value(sample.feed[info.name], info, sample.origin, note) for info in inputs}
    size = sum(value.nbytes for value in feed.values() if isinstance(value, np.ndarray))
    if size > MAX_FEED_BYTES:
        raise ResourceError(
            f"one feed has {size} bytes", where=sample.origin, hint="feed fewer rows at a time"
        )
    return Sample(sample.index, sample.origin, feed, sample.labels)


def _value(value: Any, info: TensorInfo, origin: str, note: Callable[[str], None]) -> Any:
    target = numpy_dtype(info)
    if target is None:
        return value  # a sequence or an optional: the runtime judges it
    where = f"{origin}, input '{info.name}'"
    try:
        array = np.asarray(value)
    except ValueError as error:  # nested lists of unequal lengths
        raise CalibrationError("the value is not an array", where=where) from error
    if array.dtype.kind == "O" and target.kind != "O":
        raise CalibrationError(f"the value is a {type(value).__name__}, not an array", where=where)
    if info.shape is not None:
        _check_shape(array.shape, info.shape, where)
    if array.dtype != target:
        source, array = array.dtype, _cast(array, target, where)
        if target.kind != "O":
            note(f"input '{info.name}': {source} values taken as {target}")
    elif target.kind == "O" and not all(isinstance(item, str) for item in array.flat):
        raise CalibrationError("the model takes strings and the data holds other objects", where=where)
    if _is_float(target) and not np.isfinite(array).all():
        count = array.size - int(np.isfinite(array).sum())
        what = "NaN" if np.isnan(array).any() else "Inf"
        raise CalibrationError(
            f"the data holds {what} ({count} of {array.size} values)", where=where, hint="drop this sample"
        )
    return array


def _check_shape(shape: tuple[int, ...], declared: tuple[int | str | None, ...], where: str) -> None:
    shown = "[" + ", ".join("?" if d is None else str(d) for d in declared) + "]"
    if len(shape) != len(declared):
        raise CalibrationError(
            f"the shape {list(shape)} has rank {len(shape)}, the model takes {shown}", where=where
        )
    for axis, (size, dim) in enumerate(zip(shape, declared, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise CalibrationError(
                f"the shape {list(shape)} does not fit {shown}: axis {axis} is {size}, not {dim}", where=where
            )


def _is_float(dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return True
    return dtype.kind == "V" and dtype.type is not np.void and "float" in dtype.name


def _cast(array: np.ndarray, target: np.dtype[Any], where: str) -> np.ndarray:
    source = array.dtype
    if target.kind == "O":
        if source.kind == "U":
            return array.astype(object)
        if source.kind == "S":
            return np.char.decode(array, "utf-8", "replace").astype(object)
        raise CalibrationError(f"the model takes strings, the data is {source}", where=where)
    if source.type is np.void and source.names is None and source.itemsize == target.itemsize:
        return array.view(target)  # .npz files keep no name for bfloat16 and the 8-bit floats, only the bits
    if not (source.kind in "biuf" or _is_float(source)):
        raise CalibrationError(f"the model takes {target}, the data is {source}", where=where)
    with np.errstate(all="ignore"):
        cast = array.astype(target)
        if _is_float(source) and _is_float(target):
            kept = bool((np.isfinite(cast) == np.isfinite(array)).all())  # only an overflow is a loss
        else:
            kept = _same_values(array, cast)
    if not kept:
        raise CalibrationError(
            f"the model takes {target}, the data is {source} with values that it cannot hold", where=where
        )
    return cast


def _same_values(a: np.ndarray, b: np.ndarray) -> bool:
    if math.prod(a.shape) == 0:
        return True
    # Both ways: a wrap-around (int64 -> int32 and back) shows in the sign, a rounding in the value.
    return bool(((a < 0) == (b < 0)).all() and (b.astype(a.dtype) == a).all())
