"""The same numbers for two models of which one takes or gives integers that stand for floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxslim.model.encoding import INTEGERS, Encoding, encodings
from onnxslim.runtime.client import RemoteSession

__all__ = ["Interface"]


@dataclass(frozen=True)
class Interface:
    """How one model's integers stand for floats.

    Attributes:
        inputs, outputs: name -> encoding, of those that are integers.
        types: input name -> element type.
    """

    inputs: Mapping[str, Encoding]
    outputs: Mapping[str, Encoding]
    types: Mapping[str, str]

    @classmethod
    def of(cls, session: RemoteSession) -> Interface:
        """By the metadata of a loaded model."""
        types = {info.name: info.dtype for info in session.inputs}
        coded = {info.name for info in session.outputs if info.dtype in INTEGERS}
        inputs = encodings(session.encodings, "input")
        outputs = encodings(session.encodings, "output")
        return cls(
            {name: encoding for name, encoding in inputs.items() if types.get(name) in INTEGERS},
            {name: encoding for name, encoding in outputs.items() if name in coded},
            types,
        )

    def feed(self, feed: Mapping[str, Any], other: Interface) -> dict[str, Any]:
        """``feed``, of floats or of integers, in the form that this model takes.

        Floats are rounded to what both models can be told, so that both compute with the same numbers.
        """
        return {name: self._value(name, value, other) for name, value in feed.items()}

    def _value(self, name: str, value: Any, other: Interface) -> Any:
        mine, theirs = self.inputs.get(name), other.inputs.get(name)
        if not isinstance(value, np.ndarray) or (mine is None and theirs is None):
            return value
        kinds = {self.types.get(name), other.types.get(name)}
        if value.dtype.kind != "f":
            if "float32" not in kinds:
                return value  # integers on both sides, which are fed as they are
            real = (mine or theirs or Encoding(1.0, 0)).dequantize(value)
        else:
            real = value
            for encoding, side in ((mine, self), (theirs, other)):
                if encoding is not None:
                    real = encoding.dequantize(encoding.quantize(real, side.types[name]))
        return real if mine is None else mine.quantize(real, self.types[name])

    def real(self, name: str, value: Any) -> Any:
        """An output of this model as floats, where its integers stand for some."""
        encoding = self.outputs.get(name)
        return value if encoding is None or not isinstance(value, np.ndarray) else encoding.dequantize(value)
