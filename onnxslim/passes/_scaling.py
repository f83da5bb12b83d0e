"""Scale the channels of streams: what several passes do, at equal outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.shapes import infer
from onnxslim.analysis.streams import Part, find_streams
from onnxslim.model import edit

__all__ = ["scale_channels", "seen"]

Array = npt.NDArray[Any]

_NORMAL = float(np.finfo(np.float32).tiny)


def scale_channels(model: ir.Model, factors: Mapping[str, Array]) -> bool:
    """Multiply the channels of streams by powers of two, in their constants; the outputs keep every bit.

    Args:
        factors: by the name of a stream, one for each channel.  Left out: a stream in which a constant would
            overflow or lose bits.

    Returns:
        Whether anything was scaled.
    """
    modified = False
    for stream in find_streams(model.graph, infer(model)) if factors else ():
        scales = factors.get(stream.name)
        if scales is None or scales.shape != (stream.channels,):
            continue
        contents: dict[ir.Value, Array] = {}
        for part in stream.parts:  # a weight may have the stream on both sides
            contents[part.value] = _scaled(contents.get(part.value, _content(part.value)), part, scales)
        if all(_keeps_bits(_content(value), scaled) for value, scaled in contents.items()):
            for value, scaled in contents.items():
                edit.replace_initializer(value, scaled)
            modified = True
    return modified


def seen(part: Part) -> Array:
    """The content of a part in its view."""
    return _content(part.value).reshape(part.view)


def _content(value: ir.Value) -> Array:
    content = edit.constant_value(value)
    assert content is not None
    return content


def _scaled(content: Array, part: Part, scales: Array) -> Array:
    factors = (1 / scales if part.divides else scales).reshape(part.factors)
    with np.errstate(over="ignore", under="ignore"):
        return (content.reshape(part.view) * factors.astype(np.float32)).reshape(content.shape)


def _keeps_bits(before: Array, after: Array) -> bool:
    """Whether nothing overflows, or falls below the smallest normal number."""
    small = (np.abs(after) < _NORMAL) & (np.abs(before) > np.abs(after))
    return bool(np.isfinite(after).all() and not small.any())
