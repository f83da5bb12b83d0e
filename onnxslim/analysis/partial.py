"""Integers that are computed from shapes, followed element by element where only some dimensions are known.

``Concat(Gather(Shape(x), 0), 12, 64)`` is ``[?, 12, 64]`` whatever the batch is; a ``Gather`` of its last
element is 64.  An unknown element keeps its origin (an axis of some value) as long as it is only moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import OpSpec

__all__ = ["Dim", "PartialValues"]

Array = npt.NDArray[Any]
Shape = Sequence[int | str | None]

_MOST = 64  # elements: nothing that is computed from shapes is longer
# Unknown elements travel through NumPy evaluators as tokens: numbers that no dimension has.
_TOKENS = -(1 << 62)


@dataclass(frozen=True)
class Dim:
    """Dimension ``axis`` of ``value``, whose size is not known."""

    value: ir.Value
    axis: int


class PartialValues:
    """Partially known integer values; ask for nodes in topological order.

    Args:
        shape_of: the shape of a value as far as it is known, or None.
    """

    def __init__(self, shape_of: Callable[[ir.Value], Shape | None]) -> None:
        self._shape_of = shape_of
        self._values: dict[ir.Value, Array] = {}
        self._dims: list[Dim | None] = []

    def known(self, node: ir.Node) -> Array | None:
        """The result of ``node`` if every element of it is known."""
        array = self._follow(node)
        return array if array is not None and not _unknown(array).any() else None

    def elements(self, value: ir.Value | None) -> list[int | Dim | None] | None:
        """The elements of a vector: integers, dimensions or, where nothing is known, None; else None."""
        array = self._array(value)
        if array is None or array.ndim != 1:
            return None
        return [self._dims[_TOKENS - item] if item <= _TOKENS else item for item in array.tolist()]

    def _follow(self, node: ir.Node) -> Array | None:
        """The only output of ``node``, with tokens for what is not known; None where nothing is."""
        spec = spec_of(node)
        if spec is None or not spec.foldable or len(node.outputs) != 1:
            return None
        output = node.outputs[0]
        if output not in self._values:
            if spec.from_dims is not None:
                array = self._from_dims(node, spec.from_dims)
            elif spec.numpy is not None and any(value in self._values for value in node.inputs):
                array = self._from_values(node, spec)
            else:
                return None
            if array is None or array.size > _MOST or array.dtype != np.int64:
                return None
            self._values[output] = array
        return self._values[output]

    def _from_dims(self, node: ir.Node, from_dims: Callable[[ir.Node, Array], Array | None]) -> Array | None:
        source = node.inputs[0]
        shape = None if source is None else self._shape_of(source)
        if source is None or shape is None:
            return None
        tokens = [d if isinstance(d, int) else self._token(Dim(source, i)) for i, d in enumerate(shape)]
        return from_dims(node, np.array(tokens, np.int64))

    def _from_values(self, node: ir.Node, spec: OpSpec) -> Array | None:
        assert spec.numpy is not None
        inputs = [None if value is None else self._array(value) for value in node.inputs]
        if any(a is None and v is not None for a, v in zip(inputs, node.inputs, strict=True)):
            return None
        size = None if spec.output_bytes is None else spec.output_bytes(node, inputs)
        if size is None or size > 8 * _MOST:
            return None
        masks = [None if a is None else _unknown(a) for a in inputs]
        unknown = {i for i, mask in enumerate(masks) if mask is not None and mask.any()}
        try:
            with np.errstate(all="ignore"):
                if unknown <= set(spec.moved_inputs(node)):  # tokens move like any other number
                    (result,) = spec.numpy(node, inputs)
                    return np.asarray(result)
                if not spec.elementwise:
                    return None
                filled = [a if a is None else np.where(_unknown(a), 1, a) for a in inputs]
                (result,) = spec.numpy(node, filled)
        except (ArithmeticError, IndexError, TypeError, ValueError):
            return None  # what fails here fails, if at all, when the model runs
        result = np.array(result)
        if result.dtype != np.int64:  # tokens need the room
            return None
        blank = np.zeros(result.shape, bool)
        for mask in masks:
            blank |= False if mask is None else mask
        result[blank] = [self._token(None) for _ in range(int(blank.sum()))]
        return result

    def _array(self, value: ir.Value | None) -> Array | None:
        if value is None:
            return None
        if value not in self._values:
            constant = edit.constant_value(value)
            return constant if constant is not None and constant.size <= _MOST else None
        return self._values[value]

    def _token(self, origin: Dim | None) -> int:
        self._dims.append(origin)
        return _TOKENS - len(self._dims) + 1


def _unknown(array: Array) -> npt.NDArray[np.bool_]:
    return array <= _TOKENS if array.dtype == np.int64 else np.zeros(array.shape, bool)
