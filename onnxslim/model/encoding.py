"""What the integers of an input or output stand for: ``real = scale * (integer - zero_point)``.

A model with integer inputs and outputs carries this in its metadata, as text, so that whoever feeds it can
convert, in any language:

    input.<name>.scale = 0.003921569        output.<name>.scale = 0.1
    input.<name>.zero_point = 0             output.<name>.zero_point = 128
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["INTEGERS", "Encoding", "Side", "encodings", "is_encoding_key", "metadata_of"]

Array = npt.NDArray[Any]
Side = Literal["input", "output"]

INTEGERS = frozenset({"uint8", "int8", "uint16", "int16"})  # by their names in numpy
_WHOLE = re.compile(r"-?[0-9]{1,5}")  # ASCII digits: int() takes more


@dataclass(frozen=True, slots=True)
class Encoding:
    """Scale (float32) and zero point of a tensor of 8- or 16-bit integers."""

    scale: float
    zero_point: int

    def quantize(self, real: Array, dtype: Any) -> Array:
        """Integers of ``dtype`` for floats, as QuantizeLinear computes them: ties to even, saturated.

        Example:
            >>> Encoding(0.5, 128).quantize(np.float32([-0.25, 0.75, 99]), np.uint8).tolist()
            [128, 130, 255]
        """
        limits = np.iinfo(dtype)
        steps = np.rint(real.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        return np.asarray(np.clip(steps, limits.min, limits.max).astype(dtype))

    def dequantize(self, integers: Array) -> Array:
        """The float32 that the integers stand for, as DequantizeLinear computes them."""
        steps = (integers.astype(np.int32) - self.zero_point).astype(np.float32)
        return np.asarray(steps * np.float32(self.scale))


def metadata_of(side: Side, name: str, encoding: Encoding) -> dict[str, str]:
    """The entries of a model's metadata.

    Example:
        >>> metadata_of("input", "x", Encoding(1 / 255, 0))
        {'input.x.scale': '0.003921569', 'input.x.zero_point': '0'}
    """
    stem = f"{side}.{name}"
    return {
        f"{stem}.scale": str(np.float32(encoding.scale)),
        f"{stem}.zero_point": str(encoding.zero_point),
    }


def is_encoding_key(key: str) -> bool:
    """Whether an entry of a model's metadata may belong to an encoding."""
    return key.startswith(("input.", "output.")) and key.endswith((".scale", ".zero_point"))


def encodings(metadata: Mapping[str, str], side: Side) -> dict[str, Encoding]:
    """Name -> encoding of the inputs or outputs; what is incomplete or makes no sense is left out.

    Example:
        >>> encodings({"input.x.scale": "0.5", "input.x.zero_point": "3", "input.y.scale": "oops"}, "input")
        {'x': Encoding(scale=0.5, zero_point=3)}
    """
    found = {}
    for key, text in metadata.items():
        if not (key.startswith(f"{side}.") and key.endswith(".scale")):
            continue
        name = key[len(side) + 1 : -len(".scale")]
        zero = metadata.get(f"{side}.{name}.zero_point", "")
        try:
            scale = float(np.float32(text))
        except ValueError:
            continue
        if math.isfinite(scale) and scale > 0 and _WHOLE.fullmatch(zero):
            found[name] = Encoding(scale, int(zero))
    return found
