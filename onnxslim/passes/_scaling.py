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
        if scales is not None and scales.shape == (stream.channels,):
            if all(_keeps_bits(part, scales) for part in stream.parts):
                for part in stream.parts:
                    edit.replace_initializer(part.value, _scaled(part, scales))
                modified = True
    return modified


def seen(part: Part) -> Array:
    """The content of a part in its view."""
    content = edit.constant_value(part.value)
    assert content is not None
    return content.reshape(part.view)


def _scaled(part: Part, scales: Array) -> Array:
    content = edit.constant_value(part.value)
    assert content is not None
    factors = (1 / scales if part.divides else scales).reshape(part.factors)
    with np.errstate(over="ignore", under="ignore"):
        return (seen(part) * factors.astype(np.float32)).reshape(content.shape)


def _keeps_bits(part: Part, scales: Array) -> bool:
    """Whether nothing overflows, or falls below the smallest normal number."""
    before, after = np.abs(seen(part)), np.abs(_scaled(part, scales)).reshape(part.view)
    return bool(np.isfinite(after).all() and not ((after < _NORMAL) & (before > after)).any())
