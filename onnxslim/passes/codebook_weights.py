"""Let the values of a weight be few, stored as packed indices into tables that the runtime looks up once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.reductions import Reduction, reduction_of
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes._decoding import CODED_BYTES, MIN_OPSET, Decoder
from onnxslim.passes._rounding import second_moments, shared
from onnxslim.passes._tables import SharedTable
from onnxslim.passes._weights import constants, float_weight, is_excluded, is_table, look_up, remove
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.blocks import View
from onnxslim.reconstruct.codebook import Codebook, code_bits

__all__ = ["CodebookWeights"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CodebookWeights(Pass):
    """Store float32 weights as indices into tables of few values, found by k-means.

    After Han et al., "Deep Compression", 2016, without the training: values are shared within an output
    channel, a block or the whole tensor, and levels lie where the values are, not evenly as in
    ``pack-weights``.  The indices have 1, 2, 4 or 8 bits, several to a byte.  onnxruntime looks the values up
    while it loads the model, at every optimization level but "none", also in branches, so the kernels and
    their speed stay what they were.

    1. A large table that only ``Gather`` reads along its first axis stays packed in memory too: rows of
       indices are gathered first, and their values are looked up then.
    2. Any other weight is decoded as a whole; all its readers share the decoded tensor, so tied weights are
       stored once.
    3. With second moments of the inputs, errors count as much as the inputs that meet them, and with a scale
       for each block values are chosen by GPTQ, where that brings the output of the product nearer on
       ``held_out``; the noise is that of this output.

    Vectors stay as they are.  Declined: weights whose signal to noise ratio would fall below
    ``min_sqnr_db``, whose indices and tables would not be smaller than the weight, or that are not finite.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.random.rand(64, 64).astype("f"), "w")
        >>> graph.append(ir.node("Relu", [w]))
        >>> CodebookWeights()(ir.Model(graph, ir_version=8)).modified, graph.initializers["w_t"].shape
        (True, Shape([16]))
    """

    name: ClassVar[str] = "codebook-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    entries: int = field(default=16, metadata={"help": "values of a table, 2 to 256"})
    per: Literal["channel", "tensor", "block"] = field(
        default="block",
        metadata={"help": "what has a table: an output channel, the tensor, or it with a scale a block"},
    )
    block: int = field(default=32, metadata={"help": "values along a channel that share a scale, per block"})
    min_sqnr_db: float = field(
        default=16.0, metadata={"help": "leave a weight in float when it would be noisier than this"}
    )
    only: tuple[str, ...] = field(default=(), metadata={"help": "names of the weights; none: all"})
    exclude: str = field(
        default="",
        metadata={"help": "leave these weights alone: comma-separated globs of names, or op:Conv by readers"},
    )
    inputs: Calibration | None = field(
        default=None, metadata={"help": "second moments of what weights are multiplied with"}
    )

    held_out: Calibration | None = field(
        default=None, metadata={"help": "the same of data that nothing was fitted to"}
    )
    known: Mapping[str, Codebook] = field(
        default_factory=dict,
        metadata={"help": "what was found elsewhere, by the weight's name in the main graph"},
    )

    def __post_init__(self) -> None:
        if not 2 <= self.entries <= 256:
            raise OptionError(f"entries must be 2 to 256, is {self.entries}")
        if self.per not in ("channel", "tensor", "block"):
            raise OptionError(f"per must be channel, tensor or block, is {self.per}")
        if not self.block > 0:
            raise OptionError(f"block must be positive, is {self.block}")
        if not self.min_sqnr_db >= 0:
            raise OptionError(f"min_sqnr_db must not be negative, is {self.min_sqnr_db}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        if opset < MIN_OPSET:
            self.decline(model.graph.name or "graph", f"opset {opset} is older than {MIN_OPSET}")
            return ir.passes.PassResult(model, False)
        modified = False
        for scope in edit.scopes(model):
            decoder = Decoder(scope)
            known = self.known if scope is model.graph else {}  # functions have names of their own
            for value in list(constants(scope)):
                modified |= self._share(scope, value, decoder, known)
        return ir.passes.PassResult(model, modified)

    def stored(self, model: ir.Model) -> dict[str, Codebook]:
        """The initializers of the main graph as they would be stored; the model stays as it is."""
        if model.opset_imports.get("", 0) < MIN_OPSET:
            return {}
        found = {name: self._book(value, self.known) for name, value in model.graph.initializers.items()}
        return {name: book for name, book in found.items() if book is not None}

    def search(
        self, value: ir.Value, moments: Array, held_out: Array
    ) -> Codebook | None:
        """Tables for the weight ``value``, by ``X^T X`` of what it is multiplied with; None where none is smaller."""
        weight = float_weight(value, self.only)
        if weight is None or not np.isfinite(weight).all() or not self._gains(value, weight):
            return None
        product = reduction_of(value, weight.shape)
        scaled = self.per == "block"
        fitted = {"moments": moments, "held_out": held_out}
        return shared(weight, product, self._view(product), self.entries, scaled=scaled, **fitted)[0]

    def _share(
        self, scope: edit.Scope, value: ir.Value, decoder: Decoder, known: Mapping[str, Codebook]
    ) -> bool:
        book, name = self._book(value, known), value.name or ""
        if book is None:
            return False
        if is_table(value, book.shape):
            look_up(value, SharedTable.of(decoder, book, name).rows)
        else:
            edit.replace_uses(value, decoder.shared(book, name))
        remove(scope, value)
        return True

    def _gains(self, value: ir.Value, weight: Array) -> bool:
        """Whether indices and tables can be smaller than the weight, told without a search."""
        outer, blocks, _, inner = self._view(reduction_of(value, weight.shape)).shape
        tables = 2 * outer * blocks * inner * (1 if self.per == "block" else self.entries)
        return weight.size * code_bits(self.entries) // 8 + tables < _room(value, weight)

    def _book(self, value: ir.Value, known: Mapping[str, Codebook]) -> Codebook | None:
        """The weight as it is stored; None where it stays as it is.

        Args:
            known: forms of weights of the same scope.
        """
        weight, name = float_weight(value, self.only), value.name or ""
        if weight is None:
            return None
        if is_excluded(value, self.exclude):
            self.decline(name, "excluded by the user")
            return None
        if not np.isfinite(weight).all():
            self.decline(name, "the weight is not finite")
            return None
        product = reduction_of(value, weight.shape)
        bits, scaled = code_bits(self.entries), self.per == "block"
        if is_table(value, weight.shape) and (weight.ndim != 2 or weight.shape[1] * bits % 8):
            self.decline(name, f"a lookup of rows that are not whole bytes of {bits}-bit indices")
            return None
        gains = self._gains(value, weight)
        if gains and name in known:
            return known[name]
        if gains:
            moments = second_moments(product, self.inputs, self.held_out)
            view = self._view(product)
            book, quality = shared(weight, product, view, self.entries, scaled=scaled, **moments)
        if not gains or book.nbytes >= _room(value, weight):
            self.decline(name, f"tables of {self.entries} values would take what indices save")
            return None
        if quality < self.min_sqnr_db:
            self.decline(
                name, f"{self.entries} values would leave {quality:.0f} dB, below {self.min_sqnr_db:g}"
            )
            return None
        return book

    def _view(self, product: Reduction) -> View:
        """The weight as the runs of values that share a table, or a scale."""
        if self.per == "tensor":
            return View(1, product.outer * product.length * product.inner, 1)
        return View(product.outer, product.length, product.inner).blocked(
            self.block if self.per == "block" else 0
        )


def _room(value: ir.Value, weight: Array) -> int:
    """Bytes that indices and tables may take."""
    return int(weight.nbytes) - CODED_BYTES - 4 * len(value.name or "")
