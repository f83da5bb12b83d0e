"""Float weights that could be stored in another form: which there are, who reads them, how they leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.reductions import Reduction, reduction_of
from onnxslim.analysis.selection import Selection
from onnxslim.model import edit
from onnxslim.ops.registry import is_constant, is_dequantize, is_quantize, spec_of
from onnxslim.passes._decoding import is_decoding

__all__ = ["constants", "float_weight", "integer_weight", "is_excluded", "is_table", "look_up", "remove"]

Array = npt.NDArray[Any]

_NODE_BYTES = 250  # what the decoding nodes and the second tensor cost in the file, names aside
_LOOKUP_BYTES = 1 << 20  # tables of this size and above are looked up before they are decoded


def constants(scope: edit.Scope) -> Iterator[ir.Value]:
    """Initializers and the outputs of Constant nodes."""
    if isinstance(scope, ir.Graph):
        yield from scope.initializers.values()
    for node in scope:
        if is_constant(node):
            yield node.outputs[0]


def float_weight(value: ir.Value, only: Sequence[str] = ()) -> Array | None:
    """The content of a float32 constant whose packing could pay.

    Args:
        only: names of the weights that count; none: all.
    """
    users = value.uses()
    if not users or value.is_graph_output() or value.is_graph_input():
        return None
    if only and value.name not in only:
        return None
    if any(_is_scale(user, index) for user, index in users):
        return None
    tensor = value.const_value if value.is_initializer() else None
    if tensor is not None and (tensor.dtype != ir.DataType.FLOAT or not _saves(value, tensor.shape)):
        return None  # told without reading the content
    weight = edit.constant_value(value)
    if weight is None or weight.dtype != np.float32 or not _saves(value, weight.shape):
        return None
    return weight


def integer_weight(value: ir.Value, only: Sequence[str] = ()) -> tuple[npt.NDArray[np.int8], Reduction] | None:
    """The content of an int8 constant of rank 2 or more that only conversions and integer operators read as
    their weight, and how it is multiplied."""
    users = tuple(value.uses())
    if value.dtype != ir.DataType.INT8 or (only and value.name not in only):
        return None
    if not users or value.is_graph_output() or not all(_is_integer_weight(*use) for use in users):
        return None
    weight = edit.constant_value(value)
    if weight is None or weight.ndim < 2:
        return None
    reader = users[0].node
    return weight, reduction_of(reader.outputs[0] if is_dequantize(reader) else value, weight.shape)


def is_excluded(value: ir.Value, exclude: str) -> bool:
    """Whether the user excludes the weight, by its name or by what reads it."""
    excluded, name = Selection.parse(exclude), value.name or ""
    return excluded.has_name(name) or any(excluded.has_operator(user.op_type) for user, _ in value.uses())


def is_table(value: ir.Value, shape: tuple[int, ...]) -> bool:
    """Whether the weight is large and read only row by row."""
    return 4 * math.prod(shape) >= _LOOKUP_BYTES and all(_is_row_lookup(*use) for use in value.uses())


def look_up(value: ir.Value, rows: Callable[[ir.Node], ir.Value]) -> None:
    """Let each ``Gather`` of a table make way for what ``rows`` puts in front of it."""
    for gather in {user: None for user, _ in value.uses()}:
        edit.replace_uses(gather.outputs[0], rows(gather))
        edit.remove_node(gather)


def remove(scope: edit.Scope, value: ir.Value) -> None:
    """Take a constant that nobody reads any more out of its scope."""
    node = value.producer()
    if node is not None:
        edit.remove_node(node)
    elif isinstance(scope, ir.Graph) and value.name is not None:
        del scope.initializers[value.name]


def _saves(value: ir.Value, shape: Iterable[Any]) -> bool:
    """Whether it is a matrix at least, and the file surely shrinks: of 4 bytes at most 1.5 stay, and nodes
    come on top."""
    extents = [int(extent) for extent in shape if int(extent) != 1]
    return len(extents) > 1 and 2.5 * math.prod(extents) > _NODE_BYTES + 8 * len(value.name or "")


def _is_row_lookup(user: ir.Node, index: int) -> bool:
    return (
        user.op_type == "Gather"
        and user.domain == ""
        and index == 0
        and user.attributes.get_int("axis", 0) == 0
    )


def _is_scale(user: ir.Node, index: int) -> bool:
    """Whether the value is a scale already: of a quantizer, or of a decoding such as these passes make."""
    return is_quantize(user) or is_dequantize(user) or is_decoding(user, index)


def _is_integer_weight(user: ir.Node, index: int) -> bool:
    if is_dequantize(user):
        return index == 0
    spec = spec_of(user)
    return spec is not None and spec.quant is not None and spec.quant.integer and spec.quant.weight == index
