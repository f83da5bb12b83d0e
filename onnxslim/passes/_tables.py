"""Tables whose rows are looked up before they are decoded: they stay packed while the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes._decoding import Chain, Decoder, doubled, flat, pack
from onnxslim.reconstruct.binary import Binary
from onnxslim.reconstruct.blocks import Coded
from onnxslim.reconstruct.codebook import Codebook
from onnxslim.reconstruct.vectors import VectorCodebook

__all__ = ["SharedTable", "SummedTable", "Table", "VectorTable"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Table:
    """The stored parts of a table."""

    decoder: Decoder
    coded: Coded
    codes: ir.Value
    scale: ir.Value
    zero: ir.Value | None

    @classmethod
    def of(cls, decoder: Decoder, coded: Coded, name: str) -> Table:
        """The stored parts of ``[rows, columns]`` codes."""
        nodes = Chain(decoder, next(iter(decoder.scope)), name)
        rows = coded.codes.reshape(coded.shape[0], -1)
        scale = nodes.store(coded.scale[..., 0], "s")
        zero = nodes.store(coded.zero[..., 0], "z") if coded.zero.size > 1 else None
        return cls(decoder, coded, nodes.store(_packed(rows, coded.bits), "q"), scale, zero)

    def rows(self, gather: ir.Node) -> ir.Value:
        """What ``gather`` looks up, in float, from nodes in front of it."""
        indices, nodes = _in_front_of(self.decoder, gather)
        value = nodes.add("Cast", nodes.rows(self.codes, indices, self.coded.bits), to=ir.DataType.FLOAT)
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
        return _in_place_of(gather, value)


@dataclass(frozen=True)
class SharedTable:
    """The stored parts of a table whose values are looked up once more."""

    decoder: Decoder
    book: Codebook
    codes: ir.Value
    table: ir.Value
    scale: ir.Value | None

    @classmethod
    def of(cls, decoder: Decoder, book: Codebook, name: str) -> SharedTable:
        """The stored parts; tables of values belong to whole rows, to blocks of them, or to all rows."""
        nodes = Chain(decoder, next(iter(decoder.scope)), name)
        codes = nodes.store(_packed(book.codes.reshape(book.shape[0], -1), book.bits), "q")
        _, blocks, entries, _ = book.table.shape
        shape = (-1, blocks, entries) if blocks > 1 else (-1, entries)
        table = book.table.reshape(-1 if book.is_common else shape)
        scale = None if book.scale is None else nodes.store(book.scale[..., 0], "s")
        return cls(decoder, book, codes, nodes.store(table, "t"), scale)

    def rows(self, gather: ir.Node) -> ir.Value:
        """What ``gather`` looks up, in float, from nodes in front of it."""
        indices, nodes = _in_front_of(self.decoder, gather)
        codes = nodes.add("Cast", nodes.rows(self.codes, indices, self.book.bits), to=ir.DataType.INT32)
        outer, blocks, block, _ = self.book.codes.shape
        cut = blocks > 1 and outer > 1
        shape = nodes.add("Shape", indices) if cut else None
        if shape is not None:
            codes = nodes.add("Reshape", codes, nodes.extended(shape, (blocks, block)))
        if self.book.is_common:
            value = nodes.add("Gather", nodes.cast(self.table, self.table), codes, axis=0)
        else:
            table = nodes.cast(nodes.add("Gather", self.table, indices, axis=0), self.table)
            value = nodes.add("GatherElements", table, codes, axis=-1)
        if self.scale is not None:
            scale = nodes.add("Gather", self.scale, indices, axis=0)
            if blocks == 1:
                scale = nodes.add("Reshape", scale, nodes.extended(nodes.add("Shape", indices), (1,)))
            value = nodes.add("Mul", value, nodes.cast(scale, self.scale))
        if shape is not None:
            value = nodes.add("Reshape", value, nodes.extended(shape, (blocks * block,)))
        return _in_place_of(gather, value)


@dataclass(frozen=True)
class SummedTable:
    """The stored parts of a table of signs."""

    decoder: Decoder
    form: Binary
    codes: ir.Value
    scale: ir.Value

    @classmethod
    def of(cls, decoder: Decoder, form: Binary, name: str) -> SummedTable:
        """The stored parts; the rows have whole bytes of signs."""
        nodes = Chain(decoder, next(iter(decoder.scope)), name)
        rows = np.moveaxis(form.bits, 0, 1).reshape(form.shape[0], -1)
        scale = np.moveaxis(doubled(form.scale)[..., 0], 0, 1)
        return cls(decoder, form, nodes.store(pack(rows, 1), "q"), nodes.store(scale, "s"))

    def rows(self, gather: ir.Node) -> ir.Value:
        """What ``gather`` looks up, in float, from nodes in front of it."""
        indices, nodes = _in_front_of(self.decoder, gather)
        bases, _, blocks, block, _ = self.form.bits.shape
        shape = nodes.add("Shape", indices)
        bits = nodes.rows(self.codes, indices, 1)
        bits = nodes.add("Reshape", bits, nodes.extended(shape, (bases, blocks, block)))
        scale = nodes.cast(nodes.add("Gather", self.scale, indices, axis=0), self.scale)
        value = nodes.signs(bits, scale, bases, -3)
        value = nodes.add("Reshape", value, nodes.extended(shape, (blocks * block,)))
        return _in_place_of(gather, value)


@dataclass(frozen=True)
class VectorTable:
    """The stored parts of a table whose rows are put together of vectors."""

    decoder: Decoder
    book: VectorCodebook
    codes: ir.Value
    table: ir.Value
    scale: ir.Value

    @classmethod
    def of(cls, decoder: Decoder, book: VectorCodebook, name: str) -> VectorTable:
        """The stored parts; the rows have whole bytes of codes."""
        nodes = Chain(decoder, next(iter(decoder.scope)), name)
        codes = nodes.store(_packed(book.codes.reshape(book.shape[0], -1), book.bits), "q")
        return cls(decoder, book, codes, nodes.store(flat(book), "t"), nodes.store(book.scale, "s"))

    def rows(self, gather: ir.Node) -> ir.Value:
        """What ``gather`` looks up, in float, from nodes in front of it."""
        indices, nodes = _in_front_of(self.decoder, gather)
        codes = nodes.add("Cast", nodes.rows(self.codes, indices, self.book.bits), to=ir.DataType.INT32)
        codes = nodes.spaces(codes, self.book, (-1,))
        value = nodes.add("Gather", nodes.cast(self.table, self.table), codes, axis=0)
        length = nodes.extended(nodes.add("Shape", indices), self.book.shape[1:])
        value = nodes.add("Reshape", value, length)
        scale = nodes.cast(nodes.add("Gather", self.scale, indices, axis=0), self.scale)
        value = nodes.add("Mul", value, scale)
        return _in_place_of(gather, value)


def _packed(rows: Array, bits: int) -> npt.NDArray[np.uint8]:
    return rows if bits == 8 else pack(rows, bits)


def _in_front_of(decoder: Decoder, gather: ir.Node) -> tuple[ir.Value, Chain]:
    """The indices of a lookup, and nodes that are added before it."""
    indices = gather.inputs[1]
    assert gather.graph is not None and indices is not None
    return indices, Chain(decoder, gather, gather.outputs[0].name or "rows", gather.graph)


def _in_place_of(gather: ir.Node, value: ir.Value) -> ir.Value:
    """The value, dressed as what the lookup gave."""
    old, owner = gather.outputs[0], gather.graph
    assert owner is not None
    value.name = edit.unique_name(owner, f"{old.name}_decoded")
    value.shape, value.type = old.shape, old.type
    return value
