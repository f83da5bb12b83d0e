"""Store int8 weights in 4 bits, decoded to int8 by the runtime while it loads the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes._decoding import CODED_BYTES, MIN_OPSET, Decoder
from onnxslim.passes._rounding import Known
from onnxslim.passes._weights import integer_weight
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.blocks import Coded, View, round_blocks
from onnxslim.reconstruct.rounding import sqnr_db

__all__ = ["PackIntegers"]



@dataclass(frozen=True)
class PackIntegers(Pass):
    """Store the int8 weights of a quantized model in fewer bits, several codes to a byte.

    1. A weight of rank 2 or more that only ``DequantizeLinear`` reads, or an integer operator as its weight,
       becomes codes with a whole-numbered step for each block along what a product sums up, decoded to int8.
       onnxruntime computes the decoding while
       it loads the model, so that the integer kernels and their speed stay what they were; so do the scales
       of the weight and of the bias behind it.  Weights of at most 16 evenly spaced levels lose nothing.

    Declined: weights whose signal to noise ratio would fall below ``narrow_sqnr_db``.

    Example:
        >>> weights = (np.arange(4096) % 15 * 18 - 126).astype(np.int8).reshape(64, 64)
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, weights, "w")
        >>> s = edit.add_initializer(graph, np.array(0.1, np.float32), "s")
        >>> graph.append(ir.node("DequantizeLinear", [w, s]))
        >>> PackIntegers(narrow_sqnr_db=99)(ir.Model(graph, ir_version=8)).modified
        True
    """

    name: ClassVar[str] = "pack-integers"
    promise: ClassVar[Promise] = Promise.LOSSY

    bits: Literal[4, 2] = field(default=4, metadata={"help": "of a code"})
    block: int = field(default=32, metadata={"help": "values that share a step; 0: those of a channel"})
    narrow_sqnr_db: float = field(
        default=16.0, metadata={"help": "leave a weight alone when fewer bits would be noisier than this"}
    )
    only: tuple[str, ...] = field(default=(), metadata={"help": "names of the weights; none: all"})
    known: Mapping[str, Known] = field(
        default_factory=dict,
        metadata={"help": "codes that were found elsewhere, with their signal to noise ratio in dB"},
    )

    def __post_init__(self) -> None:
        if self.bits not in (4, 2):
            raise OptionError(f"bits must be 4 or 2, is {self.bits}")
        if not self.block >= 0:
            raise OptionError(f"block must not be negative, is {self.block}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.opset_imports.get("", 0) < MIN_OPSET:
            return ir.passes.PassResult(model, False)
        modified = False
        for scope in edit.scopes(model):
            if not isinstance(scope, ir.Graph):
                continue
            decoder = Decoder(scope)
            form = self if scope is model.graph else replace(self, known={})  # functions have names of their own
            for value in list(scope.initializers.values()):
                coded = form._code(value)
                if coded is not None and value.name is not None:
                    edit.replace_uses(value, decoder.whole(coded, value.name))
                    del scope.initializers[value.name]
                    modified = True
        return ir.passes.PassResult(model, modified)

    def stored(self, model: ir.Model) -> dict[str, Coded]:
        """The initializers of the main graph as they would be stored; the model stays as it is."""
        found = {name: self._code(value) for name, value in model.graph.initializers.items()}
        return {name: coded for name, coded in found.items() if coded is not None}

    def _code(self, value: ir.Value) -> Coded | None:
        found, name = integer_weight(value, self.only), value.name or ""
        if found is None or found[0].size % (8 // self.bits):
            return None
        weight, product = found
        view = View(product.outer, product.length, product.inner).blocked(self.block)
        known = self.known.get(name)
        fitted = known is not None and known.serves(weight, self.bits)
        coded = known.codes if known is not None and fitted else round_blocks(weight, view, self.bits)
        if coded.nbytes + CODED_BYTES + 4 * len(name) > weight.nbytes:
            return None
        quality = known.sqnr_db if known is not None and fitted else _sqnr_db(weight, coded)
        if quality < self.narrow_sqnr_db:
            self.decline(name, f"{self.bits} bits would leave {quality:.0f} dB, below {self.narrow_sqnr_db:g}")
            return None
        return coded


def _sqnr_db(weight: npt.NDArray[np.int8], coded: Coded) -> float:
    return sqnr_db(weight.astype(np.float64), coded.decode().astype(np.float64))
