"""Along which axes a constant weight is summed up, and with which tensors it is multiplied."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of

__all__ = ["Reduction", "product_inputs", "reduction_of"]


@dataclass(frozen=True)
class Reduction:
    """A weight seen as ``[outer, length, inner]``, where ``length`` is what a product sums up.

    Attributes:
        inputs: names of the tensors whose channels, ``length`` of them, the weight is multiplied with; empty
            where that is not known for all readers.
    """

    outer: int
    length: int
    inner: int
    inputs: tuple[str, ...] = ()


def reduction_of(value: ir.Value, shape: tuple[int, ...]) -> Reduction:
    """How the weight ``value``, of rank 2 or more, is used; along its last axis where that is not known.

    Example:
        >>> w = ir.Value(name="w")
        >>> _ = ir.node("MatMul", [ir.Value(name="x"), w])
        >>> reduction_of(w, (64, 10))
        Reduction(outer=1, length=64, inner=10, inputs=('x',))
    """
    seen: dict[int, None] = {}
    inputs: dict[str, None] = {}
    complete = True
    for node, index in value.uses():
        spec = spec_of(node)
        role = spec.quant if spec is not None else None
        axis = role.weight_axis(node) if role and role.weight == index and role.weight_axis else None
        others = role.indices(node) if role else ()
        source = next((node.inputs[i] for i in others if i != index), None)
        if axis is None or source is None or not source.name or edit.constant_value(source) is not None:
            complete = False
        else:
            inputs[source.name] = None
        if axis is not None:
            seen[axis % len(shape)] = None
    if len(seen) != 1:
        return Reduction(math.prod(shape[:-1]), shape[-1], 1)
    channels = next(iter(seen))
    outer, length, inner = _split(shape, channels)
    whole = (
        math.prod(shape) == shape[channels] * length and length in shape
    )  # a tap of a filter is not enough
    return Reduction(outer, length, inner, tuple(inputs) if complete and whole else ())


def product_inputs(model: ir.Model) -> dict[str, int]:
    """The tensors that meet weights of the main graph, with the number of their channels."""
    found: dict[str, int] = {}
    for value in model.graph.initializers.values():
        if value.shape is not None and value.shape.rank() >= 2 and value.dtype == ir.DataType.FLOAT:
            product = reduction_of(value, value.shape.numpy())
            found |= dict.fromkeys(product.inputs, product.length)
    return found


def _split(shape: tuple[int, ...], channels: int) -> tuple[int, int, int]:
    """What stands before the sum, is summed, and stands behind it: in front of the channels or behind them,
    where there is more."""
    behind = math.prod(shape[channels + 1 :])
    if channels == 0 or behind > shape[channels - 1]:
        return math.prod(shape[: channels + 1]), behind, 1
    return math.prod(shape[: channels - 1]), shape[channels - 1], math.prod(shape[channels:])
