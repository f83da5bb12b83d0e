"""What is known about a model's values before it runs: shapes, element types, constants."""

from __future__ import annotations

from functools import cached_property

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model import edit
from onnxslim.ops.spec import Array, Dims

__all__ = ["Known"]


class Known:
    """The :class:`onnxslim.ops.spec.Facts` of a model; shapes are inferred when first asked for.

    They stay true under rewrites that keep the values, so that one inference serves a whole pass.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @cached_property
    def _shapes(self) -> Shapes:
        return infer(self._model)

    def shape(self, value: ir.Value) -> Dims | None:
        """Dimensions: an int, a name that means the same size everywhere, or None; None if all is unknown."""
        return self._shapes.shape(value)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a tensor; None where it is unknown or the value is none."""
        return self._shapes.dtype(value)

    def constant(self, value: ir.Value) -> Array | None:
        """Content of a value that is the same in every run."""
        return edit.constant_value(value)
