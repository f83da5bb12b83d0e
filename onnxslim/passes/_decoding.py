"""Nodes that make weights of stored integers; onnxruntime runs them once, while it loads the model.

It folds them at every optimization level but "none", in branches too.  (``DequantizeLinear`` would not do:
it is kept for run time.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.ops.registry import is_quantizing
from onnxslim.reconstruct.blocks import Coded

__all__ = ["CODED_BYTES", "MIN_OPSET", "Decoder", "is_decoding"]

Array = npt.NDArray[Any]

MIN_OPSET = 11  # BitShift
CODED_BYTES = 600  # what the nodes and shapes of one decoding cost in the file, names aside
_DEPTH = 12  # nodes of a decoding


@dataclass(frozen=True)
class Decoder:
    """Puts decodings at the front of a scope; small constants are shared among them."""

    scope: edit.Scope
    _shared: dict[bytes, ir.Value] = field(default_factory=dict)

    def whole(self, coded: Coded, name: str) -> ir.Value:
        """The weight as it is decoded from packed codes."""
        view = coded.codes.shape
        nodes = _Chain(self, next(iter(self.scope)), name)
        if coded.bits == 8:
            value = nodes.store(coded.codes, "q")
        else:
            fields = 8 // coded.bits
            packed = _pack(coded.codes.reshape(1, -1), coded.bits)
            shifts = (coded.bits * np.arange(fields, dtype=np.uint8)).reshape(fields, 1)
            value = nodes.add("BitShift", nodes.store(packed, "q"), nodes.small(shifts), direction="RIGHT")
            value = nodes.add("Mod", value, nodes.small(np.array(1 << coded.bits, np.uint8)))
            value = nodes.add("Reshape", value, nodes.small(np.array(view, np.int64)))
        value = nodes.add("Cast", value, to=ir.DataType.FLOAT)
        value = nodes.add("Sub", value, nodes.floats(coded.zero, "z"))
        value = nodes.add("Mul", value, nodes.floats(coded.scale, "s"))
        if view != coded.shape:
            value = nodes.add("Reshape", value, nodes.small(np.array(coded.shape, np.int64)))
        kind = ir.DataType.INT8 if coded.is_integer else ir.DataType.FLOAT
        if coded.is_integer:
            value = nodes.add("Cast", value, to=kind)
        value.name = edit.unique_name(self.scope, f"{name}_w")
        value.shape, value.type = ir.Shape(coded.shape), ir.TensorType(kind)
        return value

    def table(self, coded: Coded, name: str) -> Table:
        """A table ``[rows, columns]`` whose rows are looked up before they are decoded."""
        first = next(iter(self.scope))
        nodes = _Chain(self, first, name)
        rows = coded.codes.reshape(coded.shape[0], -1)
        packed = rows if coded.bits == 8 else _pack(rows, coded.bits)
        scale = nodes.store(coded.scale[..., 0], "s")
        zero = nodes.store(coded.zero[..., 0], "z") if coded.zero.size > 1 else None
        return Table(self, coded, nodes.store(packed, "q"), scale, zero)


@dataclass(frozen=True)
class Table:
    """The stored parts of a table."""

    decoder: Decoder
    coded: Coded
    codes: ir.Value
    scale: ir.Value
    zero: ir.Value | None

    def rows(self, gather: ir.Node) -> ir.Value:
        """What ``gather`` looks up, in float, from nodes in front of it."""
        old, indices = gather.outputs[0], gather.inputs[1]
        assert gather.graph is not None and indices is not None
        nodes = _Chain(self.decoder, gather, old.name or "rows", gather.graph)
        value = nodes.add("Gather", self.codes, indices, axis=0)
        bits = self.coded.bits
        if bits < 8:
            levels = nodes.small(np.array(1 << bits, np.uint8))
            shifts = [nodes.small(np.array(bits * at, np.uint8)) for at in range(8 // bits)]
            parts = [nodes.add("BitShift", value, shift, direction="RIGHT") for shift in shifts]
            value = nodes.add("Mod", nodes.add("Concat", *parts, axis=-1), levels)
        value = nodes.add("Cast", value, to=ir.DataType.FLOAT)
        _, blocks, block, _ = self.coded.codes.shape
        shape = nodes.add("Shape", indices)
        if blocks > 1:
            value = nodes.add("Reshape", value, nodes.extended(shape, (blocks, block)))
        for op, factor, common in (("Sub", self.zero, self.coded.zero), ("Mul", self.scale, None)):
            if factor is None and common is not None:
                operand = nodes.small(common.astype(np.float32).reshape(()))
            else:
                assert factor is not None
                found = nodes.add("Gather", factor, indices, axis=0)
                if blocks == 1:
                    found = nodes.add("Reshape", found, nodes.extended(shape, (1,)))
                operand = nodes.cast(found, factor)
            value = nodes.add(op, value, operand)
        if blocks > 1:
            value = nodes.add("Reshape", value, nodes.extended(shape, (blocks * block,)))
        value.name = edit.unique_name(gather.graph, f"{old.name}_decoded")
        value.shape, value.type = old.shape, old.type
        return value


@dataclass
class _Chain:
    """Adds nodes in front of ``first``, with short names: a file holds them twice."""

    decoder: Decoder
    first: ir.Node
    name: str
    owner: edit.Scope | None = None

    def add(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        owner = self.owner if self.owner is not None else self.decoder.scope
        node = ir.node(op_type, list(inputs), attributes)
        node.outputs[0].name = edit.unique_name(owner, "u")
        owner.insert_before(self.first, [node])
        return node.outputs[0]

    def store(self, array: Array, suffix: str) -> ir.Value:
        scope = self.decoder.scope
        front = next(iter(scope))
        return edit.add_constant(scope, np.ascontiguousarray(array), f"{self.name}_{suffix}", before=front)

    def small(self, array: Array) -> ir.Value:
        """A constant that other decodings share."""
        scope, key = self.decoder.scope, repr((array.dtype.str, array.shape)).encode() + array.tobytes()
        if key not in self.decoder._shared:
            value = edit.add_constant(scope, array, "unpack", before=next(iter(scope)))
            self.decoder._shared[key] = value
        return self.decoder._shared[key]

    def floats(self, array: Array, suffix: str) -> ir.Value:
        if array.size == 1:
            return self.small(array.astype(np.float32).reshape(()))
        value = self.store(array, suffix)
        return self.cast(value, value)

    def cast(self, value: ir.Value, stored: ir.Value) -> ir.Value:
        return value if stored.dtype == ir.DataType.FLOAT else self.add("Cast", value, to=ir.DataType.FLOAT)

    def extended(self, shape: ir.Value, dims: Sequence[int]) -> ir.Value:
        return self.add("Concat", shape, self.small(np.array(dims, np.int64)), axis=0)


def _pack(rows: Array, bits: int) -> npt.NDArray[np.uint8]:
    """``[n, m]`` codes in ``[n, m * bits / 8]`` bytes: the first part of a row in the lowest bits."""
    parts = np.split(rows, 8 // bits, axis=1)
    packed = np.zeros_like(parts[0])
    for at, part in enumerate(parts):
        packed |= part << np.uint8(bits * at)
    return packed


def is_decoding(user: ir.Node, index: int) -> bool:
    """Whether input ``index`` is a scale or zero point of a decoding, or goes with a scale found at run time."""
    if user.op_type in ("Gather", "Cast", "Reshape") and index == 0:
        return any(is_decoding(reader, slot) for reader, slot in user.outputs[0].uses())
    if user.op_type not in ("Mul", "Sub") or len(user.inputs) != 2:
        return False
    value = user.inputs[1 - index]
    maker = value.producer() if value is not None else None
    if maker is not None and is_quantizing(maker.op_type):
        return True
    for _ in range(_DEPTH):
        producer = value.producer() if value is not None else None
        if producer is None or not producer.inputs:
            break
        value = producer.inputs[0]
    stored = None if value is None else edit.constant_value(value)
    return stored is not None and stored.dtype in (np.int8, np.uint8)
