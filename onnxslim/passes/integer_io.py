"""Integer inputs and outputs for a model that is quantized inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model import edit
from onnxslim.model.encoding import Encoding, Side, metadata_of
from onnxslim.ops.registry import is_dequantize, is_quantize, spec_of, takes
from onnxslim.ops.spec import Declined, Dims
from onnxslim.passes.base import Pass, Promise

__all__ = ["IntegerIo"]

Array = npt.NDArray[Any]

_INTEGERS: dict[ir.DataType, np.dtype[Any]] = {
    ir.DataType.UINT8: np.dtype(np.uint8),
    ir.DataType.INT8: np.dtype(np.int8),
    ir.DataType.UINT16: np.dtype(np.uint16),
    ir.DataType.INT16: np.dtype(np.int16),
}
_FAR = 256.0  # where a normalisation is probed, beside 0


class _Refused(Exception):  # noqa: N818 (an answer rather than an error)
    """Why an input or output stays as it is."""


@dataclass
class _Reading:
    """What stands between an input and its quantizers.

    Attributes:
        quantizers: each with the element-by-element steps in front of it.
        moving: nodes that only move values, with the index of what they move.
        moved: their outputs, which hold integers afterwards.
        vanishing: the steps and the quantizers, each with the index of the input that it hands on.
    """

    quantizers: list[tuple[ir.Node, tuple[ir.Node, ...]]] = field(default_factory=list)
    moving: list[tuple[ir.Node, int]] = field(default_factory=list)
    moved: list[ir.Value] = field(default_factory=list)
    vanishing: dict[ir.Node, int] = field(default_factory=dict)


@dataclass(frozen=True)
class IntegerIo(Pass):
    """Let a QDQ model take and give the integers that it computes with; names and shapes stay.

    1. ``q = QuantizeLinear(x)`` of an input x: x becomes an input of q's type.  Several quantizers of one scale
       count as one.
    2. What only moves values in front of the quantizer (Transpose, Reshape) moves integers.
    3. What normalises them (Cast, Sub, Div, Mul, ... by the same number everywhere) goes into the scale and the
       zero point.  It is tried with every integer whether the quantizer gives back that very integer.
    4. An input of integers already (``Cast`` of an image): the same, with nothing left to choose.
    5. ``y = DequantizeLinear(q)`` for an output y, also with moves between: y becomes q.

    The metadata say what the integers mean, see :mod:`onnxslim.model.encoding`.  Fed with integers, the model
    computes bit for bit what it did when it was fed with the floats that they stand for.  A float between two
    of them may go to the other one where a normalisation was folded (at most half a step further).

    Declined: whatever is also read or computed in float, normalisation that differs by channel (scales of
    integer weights would have to be rounded again; fold-normalization comes before they are integers), scales
    per channel, and types other than 8 and 16 bits.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) <float s = {0.5}, uint8 z = {3}> {
        ...     q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }'''))
        >>> IntegerIo()(model).modified, model.graph.inputs[0].dtype, dict(model.metadata_props)
        (True, UINT8, {'input.x.scale': '0.5', 'input.x.zero_point': '3'})
    """

    name: ClassVar[str] = "integer-io"
    promise: ClassVar[Promise] = Promise.EXACT

    inputs: bool = field(default=True, metadata={"help": "turn inputs into integers"})
    outputs: bool = field(default=True, metadata={"help": "turn outputs into integers"})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        sides: list[tuple[Side, list[ir.Value]]] = []
        if self.inputs:
            sides.append(("input", list(model.graph.inputs)))
        if self.outputs:
            sides.append(("output", list(model.graph.outputs)))
        modified, shapes = False, infer(model)
        for side, values in sides:
            for value in values:
                name = value.name or ""
                try:
                    found = _input(model.graph, value, shapes) if side == "input" else _output(model.graph, value)
                except _Refused as refused:
                    self.decline(name, f"the {side} stays as it is: {refused}")
                    continue
                if found is not None:
                    model.metadata_props.update(metadata_of(side, name, found))
                    modified = True
        return ir.passes.PassResult(model, modified)


def _input(graph: ir.Graph, value: ir.Value, shapes: Shapes) -> Encoding | None:
    """Turn one input into integers; None where there is nothing to do.

    Raises:
        _Refused: it has to stay as it is.
    """
    if value.dtype != ir.DataType.FLOAT and value.dtype not in _INTEGERS:
        return None
    floats = value.dtype == ir.DataType.FLOAT
    if floats and value.is_initializer():
        raise _Refused("it has a default value")
    try:
        found = _read(graph, value, shapes)
    except _Refused:
        if floats:
            raise
        return None  # integers that are read as such
    if not found.quantizers:
        return None
    if not floats and not any(steps for _, steps in found.quantizers):
        return None
    encodings = {_encoding_of(node, steps, value.dtype) for node, steps in found.quantizers}
    if len(encodings) > 1:
        raise _Refused("its quantizers have different scales")
    [(encoding, dtype)] = encodings
    for node, index in found.moving:
        _check_moves(graph, node, index, dtype)
    for moved in found.moved:
        moved.type = ir.TensorType(dtype)
    value.type = ir.TensorType(dtype)
    for node, index in found.vanishing.items():
        source = node.inputs[index]
        assert source is not None
        constants = [v for i, v in enumerate(node.inputs) if v is not None and i != index]
        node.outputs[0].type = ir.TensorType(dtype)
        edit.replace_uses(node.outputs[0], source)
        edit.remove_node(node)
        for constant in constants:
            edit.remove_unread(constant)
    return encoding


def _read(graph: ir.Graph, value: ir.Value, shapes: Shapes) -> _Reading:
    found = _Reading()
    work: list[tuple[ir.Value, tuple[ir.Node, ...]]] = [(value, ())]
    while work:
        current, steps = work.pop()
        if current.is_graph_output():
            raise _Refused("it is an output as well" if current is value else f"{current.name} is an output")
        for node, index in current.uses():
            if node.graph is not graph:
                raise _Refused(f"it is read in a branch, by {_label(node)}")
            spec = spec_of(node)
            if is_quantize(node) and index == 0:
                found.quantizers.append((node, steps))
                found.vanishing[node] = 0
            elif spec is not None and spec.from_dims is not None:
                continue  # asks for the shape alone
            elif spec is not None and spec.moved_inputs(node) == (index,):
                found.moving.append((node, index))
                for output in node.outputs:
                    dtype = shapes.dtype(output)
                    if output.name and dtype is None:
                        raise _Refused(f"the type of {output.name} is not known")
                    if output.name and dtype == shapes.dtype(current):  # not the indices of a maximum
                        found.moved.append(output)
                        work.append((output, steps))
            elif spec is not None and spec.elementwise and spec.numpy is not None:
                _check_step(node, index, shapes.shape(current))
                found.vanishing[node] = index
                work.append((node.outputs[0], (*steps, node)))
            else:
                raise _Refused(f"{_label(node)} reads it in float")
    return found


def _check_step(node: ir.Node, index: int, shape: Dims | None) -> None:
    """Refuse a step that does not do the same to each element, or that changes the shape."""
    for other, operand in enumerate(node.inputs):
        if other == index or operand is None:
            continue
        content = edit.constant_value(operand)
        if content is None:
            raise _Refused(f"{_label(node)} reads it in float")
        if not content.size or (content != content.flat[0]).any():
            raise _Refused(f"the normalisation by {_label(node)} differs by channel")
        dims = () if shape is None else shape
        aligned = tuple(dims)[len(dims) - content.ndim :]
        if content.ndim > len(dims) or any(
            size not in (1, own) for size, own in zip(content.shape, aligned, strict=True)
        ):
            raise _Refused(f"{_label(node)} may change its shape")


def _encoding_of(
    node: ir.Node, steps: Sequence[ir.Node], given: ir.DataType | None
) -> tuple[Encoding, ir.DataType]:
    """What integers of an input of type ``given`` will mean, proven with each of them, and their type."""
    inner, dtype = _scale_of(node)
    codes = _all_codes(dtype)
    if given != ir.DataType.FLOAT:
        if given != dtype:
            raise _Refused(f"it is {given}, and is quantized to {dtype}")
        if not np.array_equal(inner.quantize(_after(steps, codes), codes.dtype), codes):
            raise _Refused("quantizing gives other integers than those that come in")
        return Encoding(1.0, 0), dtype  # they are the numbers themselves
    if not steps:
        return inner, dtype
    near, far = (float(x) for x in _after(steps, np.array([0, _FAR], np.float32)))
    factor = (far - near) / _FAR
    if not np.isfinite(factor) or factor <= 0:
        raise _Refused("the normalisation in front of its quantizer cannot be inverted")
    outer = Encoding(
        float(np.float32(inner.scale / factor)), round(inner.zero_point + near / inner.scale)
    )
    limits = np.iinfo(codes.dtype)
    if not limits.min <= outer.zero_point <= limits.max:
        raise _Refused(f"with the normalisation its zero point would be {outer.zero_point}")
    if not np.array_equal(inner.quantize(_after(steps, outer.dequantize(codes)), codes.dtype), codes):
        raise _Refused("the normalisation in front of its quantizer is not exact on the quantizer's grid")
    return outer, dtype


def _all_codes(dtype: ir.DataType) -> Array:
    limits = np.iinfo(_INTEGERS[dtype])
    return np.arange(limits.min, limits.max + 1, dtype=np.int32).astype(_INTEGERS[dtype])


def _after(steps: Sequence[ir.Node], values: Array) -> Array:
    """What the steps make of single values, with the runtime's own arithmetic.

    Raises:
        _Refused: that is not known for certain, or the result is not finite.
    """
    for node in steps:
        spec = spec_of(node)
        assert spec is not None and spec.numpy is not None
        operands = [_scalar(operand, values) for operand in node.inputs]
        try:
            with np.errstate(all="ignore"):
                [values] = spec.numpy(node, operands)
        except (Declined, ValueError, TypeError):
            raise _Refused(f"{_label(node)} in front of its quantizer is no known normalisation") from None
    if values.dtype != np.float32 or not np.isfinite(values).all():
        raise _Refused("what its quantizer reads is not finite, or not float32")
    return values


def _scalar(operand: ir.Value | None, values: Array) -> Array | None:
    if operand is None:
        return None
    content = edit.constant_value(operand)
    return values if content is None else content.reshape(-1)[0].reshape(())


def _output(graph: ir.Graph, value: ir.Value) -> Encoding | None:
    """Turn one output into integers; None where it holds no floats.

    Raises:
        _Refused: it has to stay as it is.
    """
    if value.dtype != ir.DataType.FLOAT:
        return None
    moving = list(_moves_in_front(value))
    source = moving[-1].inputs[0] if moving else value
    node = None if source is None else source.producer()
    if source is None or node is None or not is_dequantize(node):
        raise _Refused("nothing computes it" if node is None else f"{_label(node)} computes it in float")
    encoding, dtype = _scale_of(node)
    for each in moving:
        _check_moves(graph, each, 0, dtype)
    integers = node.inputs[0]
    assert integers is not None
    if any(user not in moving for user, _ in source.uses()):  # what reads it inside still wants floats
        kept = ir.Node(node.domain, node.op_type, node.inputs, node.attributes.values())
        restored = kept.outputs[0]
        restored.name = edit.unique_name(graph, f"{source.name}_inside")
        restored.shape, restored.type = source.shape, source.type
        graph.insert_after(node, [kept])
        for user, index in tuple(source.uses()):
            if user not in moving:
                user.replace_input_with(index, restored)
    for each in moving:
        each.outputs[0].type = ir.TensorType(dtype)
    source.type = ir.TensorType(dtype)
    edit.replace_uses(source, integers)
    scales = [operand for operand in node.inputs[1:] if operand is not None]
    edit.remove_node(node)
    for operand in scales:
        edit.remove_unread(operand)
    return encoding


def _check_moves(graph: ir.Graph, node: ir.Node, index: int, dtype: ir.DataType) -> None:
    if not takes(node, index, dtype, graph.opset_imports.get(node.domain, 0)):
        raise _Refused(f"{_label(node)} does not take {dtype}")


def _moves_in_front(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that bring an output into order and do nothing else, the last one first."""
    node = value.producer()
    while node is not None:
        spec = spec_of(node)
        if spec is None or spec.moved_inputs(node) != (0,) or len(node.outputs) != 1:
            return
        source = node.inputs[0]
        if value.uses() or source is None or source.is_graph_output():
            return
        yield node
        value, node = source, source.producer()
        if len(tuple(value.uses())) != 1:
            return


def _scale_of(node: ir.Node) -> tuple[Encoding, ir.DataType]:
    """The scale and zero point of a quantizer or dequantizer, and the type of its integers."""
    scale = edit.constant_value(node.inputs[1])
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    point = edit.constant_value(zero) if zero is not None else np.zeros((), np.uint8)
    if scale is None or point is None:
        raise _Refused(f"the scale of {_label(node)} is not constant")
    if scale.size != 1 or point.size != 1:
        raise _Refused(f"{_label(node)} has a scale per channel")
    if scale.dtype != np.float32 or not np.isfinite(scale).all() or not (scale > 0).all():
        raise _Refused(f"the scale of {_label(node)} is no positive float32")
    integers = node.outputs[0] if is_quantize(node) else node.inputs[0]
    if zero is not None:
        dtype = ir.DataType.from_numpy(point.dtype)
    elif integers is not None and integers.dtype is not None:
        dtype = integers.dtype
    else:
        dtype = ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)
    if dtype not in _INTEGERS:
        raise _Refused(f"{_label(node)} is of type {dtype}")
    return Encoding(float(scale.reshape(-1)[0]), int(point.reshape(-1)[0])), dtype


def _label(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node.outputs[0].name or ''}".strip()
