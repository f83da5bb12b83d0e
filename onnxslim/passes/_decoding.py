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
from onnxslim.reconstruct.binary import Binary
from onnxslim.reconstruct.blocks import Coded
from onnxslim.reconstruct.codebook import Codebook
from onnxslim.reconstruct.vectors import VectorCodebook

__all__ = ["CODED_BYTES", "MIN_OPSET", "Chain", "Decoder", "Rows", "doubled", "flat", "is_decoding", "pack"]

Array = npt.NDArray[Any]

MIN_OPSET = 11  # BitShift
CODED_BYTES = 640  # what the nodes and shapes of one decoding cost in the file, names aside
_DEPTH = 12  # nodes of a decoding


@dataclass(frozen=True)
class Rows:
    """A weight of few different rows: ``scale * table[index]``.

    Attributes:
        table: ``[rows, elements]``.
        index: of the row of each, unsigned.
        scale: of each row, float32; None: none.
        shape: of the weight.
        axis: along which the rows lie, 0 or 1; None: they are runs of elements.
    """

    table: Array
    index: Array
    scale: Array | None
    shape: tuple[int, ...]
    axis: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return int(self.table.nbytes + self.index.nbytes + (0 if self.scale is None else self.scale.nbytes))


@dataclass(frozen=True)
class Decoder:
    """Puts decodings at the front of a scope; small constants are shared among them."""

    scope: edit.Scope
    _shared: dict[bytes, ir.Value] = field(default_factory=dict)

    def whole(self, coded: Coded, name: str) -> ir.Value:
        """The weight as it is decoded from packed codes."""
        nodes = Chain(self, next(iter(self.scope)), name)
        value = nodes.add("Cast", nodes.codes(coded.codes, coded.bits), to=ir.DataType.FLOAT)
        value = nodes.add("Sub", value, nodes.floats(coded.zero, "z"))
        value = nodes.add("Mul", value, nodes.floats(coded.scale, "s"))
        if coded.codes.shape != coded.shape:
            value = nodes.add("Reshape", value, nodes.small(np.array(coded.shape, np.int64)))
        if coded.is_integer:
            value = nodes.add("Cast", value, to=ir.DataType.INT8)
        return self._finished(value, name, coded)

    def shared(self, book: Codebook, name: str) -> ir.Value:
        """The weight as it is looked up in tables by packed codes."""
        nodes = Chain(self, next(iter(self.scope)), name)
        codes = nodes.add("Cast", nodes.codes(book.codes, book.bits), to=ir.DataType.INT32)
        if book.is_common:
            value = nodes.add("Gather", nodes.floats(book.table.reshape(-1), "t"), codes, axis=0)
        else:
            value = nodes.add("GatherElements", nodes.floats(book.table, "t"), codes, axis=2)
        if book.scale is not None:
            value = nodes.add("Mul", value, nodes.floats(book.scale, "s"))
        if book.codes.shape != book.shape:
            value = nodes.add("Reshape", value, nodes.small(np.array(book.shape, np.int64)))
        return self._finished(value, name, book)

    def rows(self, form: Rows, name: str) -> ir.Value:
        """The weight as it is put together of rows."""
        nodes = Chain(self, next(iter(self.scope)), name)
        index = nodes.add("Cast", nodes.store(form.index, "q"), to=ir.DataType.INT32)
        axis = form.axis or 0
        value = nodes.add("Gather", nodes.store(form.table.T if axis else form.table, "t"), index, axis=axis)
        if form.scale is not None:
            value = nodes.add("Mul", value, nodes.store(np.expand_dims(form.scale, 1 - axis), "s"))
        if axis == 0 and (form.axis is None or len(form.shape) != 2):
            value = nodes.add("Reshape", value, nodes.small(np.array(form.shape, np.int64)))
        return self._finished(value, name, form)

    def vectors(self, book: VectorCodebook, name: str) -> ir.Value:
        """The weight as it is put together of vectors, looked up in a table by packed codes."""
        nodes = Chain(self, next(iter(self.scope)), name)
        outer, spaces, inner = book.codes.shape
        codes = nodes.add("Cast", nodes.codes(book.codes, book.bits), to=ir.DataType.INT32)
        codes = nodes.spaces(codes, book, (spaces, 1))
        value = nodes.add("Gather", nodes.floats(flat(book), "t"), codes, axis=0)
        if inner > 1:
            value = nodes.add("Transpose", value, perm=[0, 1, 3, 2])
        scale = book.scale.reshape(outer, 1, 1, inner)
        value = nodes.add("Mul", value, nodes.floats(scale, "s"))
        value = nodes.add("Reshape", value, nodes.small(np.array(book.shape, np.int64)))
        return self._finished(value, name, book)

    def summed(self, form: Binary, name: str) -> ir.Value:
        """The weight as the sum of its signs times their scales, out of packed bits."""
        nodes = Chain(self, next(iter(self.scope)), name)
        value = nodes.signs(nodes.codes(form.bits, 1), nodes.floats(doubled(form.scale), "s"), form.bases, 0)
        value = nodes.add("Reshape", value, nodes.small(np.array(form.shape, np.int64)))
        if form.is_integer:
            value = nodes.add("Cast", value, to=ir.DataType.INT8)
        return self._finished(value, name, form)

    def scattered(self, weight: Array, name: str) -> ir.Value:
        """The weight from a bit for each element and what is not zero: the n-th set bit stands for the n-th
        value, and a clear one for the zero in front of them."""
        nodes = Chain(self, next(iter(self.scope)), name)
        flat = weight.reshape(-1)
        present = (flat.view(f"u{flat.itemsize}") != 0).astype(np.uint8)  # -0.0 is no zero: it has a bit
        bits = nodes.add("Cast", nodes.codes(present, 1), to=ir.DataType.INT32)
        counted = nodes.add("CumSum", bits, nodes.small(np.array(0, np.int64)))
        values = nodes.store(np.concatenate([np.zeros(1, flat.dtype), flat[present != 0]]), "v")
        value = nodes.add("Gather", values, nodes.add("Mul", counted, bits), axis=0)
        value = nodes.add("Reshape", value, nodes.small(np.array(weight.shape, np.int64)))
        return self._named(value, name, weight.shape, ir.DataType.from_numpy(weight.dtype))

    def _finished(self, value: ir.Value, name: str, form: Coded | Codebook | Rows | Binary | VectorCodebook) -> ir.Value:
        integer = isinstance(form, Coded | Binary) and form.is_integer
        return self._named(value, name, form.shape, ir.DataType.INT8 if integer else ir.DataType.FLOAT)

    def _named(self, value: ir.Value, name: str, shape: Sequence[int], dtype: ir.DataType) -> ir.Value:
        value.name = edit.unique_name(self.scope, f"{name}_w")
        value.shape, value.type = ir.Shape(shape), ir.TensorType(dtype)
        return value


def doubled(scale: Array) -> Array:
    """From the middle of -a and a, a bit goes half of the way; doubling is exact in every type of a scale."""
    return scale + scale


@dataclass
class Chain:
    """Adds nodes in front of ``first``, with short names: a file holds them twice."""

    decoder: Decoder
    first: ir.Node
    name: str
    owner: edit.Scope | None = None

    def add(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        owner = self.owner if self.owner is not None else self.decoder.scope
        node = edit.new_node(op_type, list(inputs), attributes)
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

    def codes(self, codes: npt.NDArray[np.uint8], bits: int) -> ir.Value:
        """Codes of a whole weight, out of packed bytes."""
        if bits == 8:
            return self.store(codes, "q")
        fields = 8 // bits
        filler = -codes.size % fields
        packed = pack(np.pad(codes.reshape(1, -1), ((0, 0), (0, filler))), bits)
        shifts = (bits * np.arange(fields, dtype=np.uint32)).reshape(fields, 1)
        # of uint8 in front of a product, OpenVINO 2026.4 shifts without rounding down: it makes one step of
        # this and of Mod
        value = self.add("Cast", self.store(packed, "q"), to=ir.DataType.UINT32)
        value = self.add("BitShift", value, self.small(shifts), direction="RIGHT")
        value = self.add("Mod", value, self.small(np.array(1 << bits, np.uint32)))
        if filler:
            value = self.add("Reshape", value, self.small(np.array([-1], np.int64)))
            ends = (self.small(np.array([end], np.int64)) for end in (0, codes.size))
            value = self.add("Slice", value, *ends)
        return self.add("Reshape", value, self.small(np.array(codes.shape, np.int64)))

    def signs(self, bits: ir.Value, scale: ir.Value, bases: int, axis: int) -> ir.Value:
        """Bits as ``-scale / 2`` and ``scale / 2``, the bases along ``axis`` summed up one after another."""
        value = self.add("Cast", bits, to=ir.DataType.FLOAT)
        value = self.add("Sub", value, self.small(np.array(0.5, np.float32)))
        value = self.add("Mul", value, scale)
        if bases == 1 and axis == 0:
            return value
        numbers = (self.small(np.array(number, np.int64)) for number in range(bases))
        parts = [self.add("Gather", value, number, axis=axis) for number in numbers]
        for part in parts[1:]:
            parts[0] = self.add("Add", parts[0], part)
        return parts[0]

    def spaces(self, codes: ir.Value, book: VectorCodebook, shape: tuple[int, ...]) -> ir.Value:
        """Indices into the tables one after another, where each space has one of its own."""
        tables, entries, _ = book.table.shape
        if tables == 1:
            return codes
        return self.add("Add", codes, self.small(entries * np.arange(tables, dtype=np.int32).reshape(shape)))

    def rows(self, stored: ir.Value, indices: ir.Value, bits: int) -> ir.Value:
        """Codes of the rows that are looked up, out of packed bytes."""
        value = self.add("Gather", stored, indices, axis=0)
        if bits == 8:
            return value
        shifts = [self.small(np.array(bits * at, np.uint8)) for at in range(8 // bits)]
        parts = [self.add("BitShift", value, shift, direction="RIGHT") for shift in shifts]
        levels = self.small(np.array(1 << bits, np.uint8))
        return self.add("Mod", self.add("Concat", *parts, axis=-1), levels)

    def floats(self, array: Array, suffix: str) -> ir.Value:
        if array.size == 1:
            return self.small(array.astype(np.float32).reshape(()))
        value = self.store(array, suffix)
        return self.cast(value, value)

    def cast(self, value: ir.Value, stored: ir.Value) -> ir.Value:
        return value if stored.dtype == ir.DataType.FLOAT else self.add("Cast", value, to=ir.DataType.FLOAT)

    def extended(self, shape: ir.Value, dims: Sequence[int]) -> ir.Value:
        return self.add("Concat", shape, self.small(np.array(dims, np.int64)), axis=0)


def flat(book: VectorCodebook) -> Array:
    """All tables as one."""
    return book.table.reshape(-1, book.table.shape[2])


def pack(rows: Array, bits: int) -> npt.NDArray[np.uint8]:
    """``[n, m]`` codes in ``[n, m * bits / 8]`` bytes: the first part of a row in the lowest bits."""
    parts = np.split(rows, 8 // bits, axis=1)
    packed = np.zeros_like(parts[0])
    for at, part in enumerate(parts):
        packed |= part << np.uint8(bits * at)
    return packed


def is_decoding(user: ir.Node, index: int) -> bool:
    """Whether input ``index`` is a scale, zero point or table of values of a decoding, or goes with a scale
    found at run time."""
    if user.op_type in ("Gather", "GatherElements") and index == 0 and _is_decoded(user.inputs[-1]):
        return True
    if user.op_type in ("Gather", "Cast", "Reshape") and index == 0:
        return any(is_decoding(reader, slot) for reader, slot in user.outputs[0].uses())
    if user.op_type not in ("Mul", "Sub") or len(user.inputs) != 2:
        return False
    value = user.inputs[1 - index]
    maker = value.producer() if value is not None else None
    if maker is not None and is_quantizing(maker.op_type):
        return True
    return _is_decoded(value)


def _is_decoded(value: ir.Value | None) -> bool:
    """Whether a value is made, node by node, of stored codes."""
    for _ in range(_DEPTH):
        producer = value.producer() if value is not None else None
        if producer is None or not producer.inputs:
            break
        value = producer.inputs[_source(producer)]
    stored = None if value is None else edit.constant_value(value)
    return stored is not None and stored.dtype in (np.int8, np.uint8, np.uint16)


def _source(node: ir.Node) -> int:
    """Through which input a decoding goes on: of a lookup in a table of values, the indices."""
    if node.op_type not in ("Gather", "GatherElements"):
        return 0
    table = node.inputs[0]
    maker = table.producer() if table is not None else None
    if maker is not None and maker.op_type == "Cast":
        table = maker.inputs[0]
    stored = None if table is None else edit.constant_value(table)
    return len(node.inputs) - 1 if stored is not None and stored.dtype.kind == "f" else 0
