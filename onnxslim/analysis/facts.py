"""What is known about a model's values before it runs: shapes, element types, constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.shapes import infer
from onnxslim.model import edit
from onnxslim.ops.spec import Dims

__all__ = ["Known"]


class Known:
    """The facts that operators' conditions ask for; constants are read once."""

    def __init__(self, model: ir.Model) -> None:
        self._shapes = infer(model)
        self._constants: dict[ir.Value, np.ndarray[Any, Any] | None] = {}

    def shape(self, value: ir.Value) -> Dims | None:
        """Dimensions: an int, a symbol, or None where unknown."""
        return self._shapes.shape(value)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a tensor."""
        return self._shapes.dtype(value)

    def constant(self, value: ir.Value) -> np.ndarray[Any, Any] | None:
        """Content of a value that is the same in every run."""
        if value not in self._constants:
            self._constants[value] = edit.constant_value(value)
        return self._constants[value]
