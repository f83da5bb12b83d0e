"""Product quantization: runs of a weight's values become indices into a table of vectors, looked up at load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.reductions import reduction_of
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes._decoding import CODED_BYTES, MIN_OPSET, Decoder
from onnxslim.passes._rounding import in_vectors, second_moments
from onnxslim.passes._tables import VectorTable
from onnxslim.passes._weights import constants, float_weight, is_excluded, is_table, look_up, remove
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.codebook import code_bits
from onnxslim.reconstruct.vectors import VectorCodebook

__all__ = ["QuantizeVectors"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QuantizeVectors(Pass):
    """Store float32 weights as indices into tables of few vectors, found by k-means, with a scale for each row.

    Product quantization (Jegou et al., 2011): what a product sums up, or a row of a lookup, is cut into
    vectors, one index stands for each of them, and so 256 vectors of 4 values take 2 bits for a weight.
    onnxruntime looks the vectors up while it loads the model, at every optimization level but "none", also in
    branches, so the kernels and their speed stay what they were.

    1. A large table that only ``Gather`` reads along its first axis stays packed in memory too: rows of
       indices are gathered first, and their vectors are looked up then.
    2. Any other weight is decoded as a whole; all its readers share the decoded tensor, so tied weights are
       stored once.
    3. With second moments of the inputs, vectors are chosen one after another by what the output loses, each
       making good what was lost before (GPTVQ), where that brings the output of the product nearer on
       ``held_out``; the noise is that of this output.

    Vectors (biases, scales) stay as they are.  Declined: weights whose rows cannot be cut into such vectors,
    whose signal to noise ratio would fall below ``min_sqnr_db``, whose indices and tables would not be smaller
    than the weight, or that are not finite.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.random.rand(128, 64).astype("f"), "w")
        >>> graph.append(ir.node("Relu", [w]))
        >>> QuantizeVectors(min_sqnr_db=0)(ir.Model(graph, ir_version=8)).modified, graph.initializers["w_q"].shape
        (True, Shape([128, 16, 1]))
    """

    name: ClassVar[str] = "quantize-vectors"
    promise: ClassVar[Promise] = Promise.LOSSY

    entries: int = field(default=256, metadata={"help": "vectors of a table, 2 to 256"})
    vector: Literal[2, 4, 8] = field(default=4, metadata={"help": "values that one index stands for"})
    per: Literal["tensor", "space"] = field(
        default="tensor",
        metadata={"help": "what has a table: the tensor, or each place of a vector in a row"},
    )
    min_sqnr_db: float = field(
        default=8.0, metadata={"help": "leave a weight in float when it would be noisier than this"}
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
    known: Mapping[str, VectorCodebook] = field(
        default_factory=dict,
        metadata={"help": "what was found elsewhere, by the weight's name in the main graph"},
    )

    def __post_init__(self) -> None:
        if not 2 <= self.entries <= 256:
            raise OptionError(f"entries must be 2 to 256, is {self.entries}")
        if self.vector not in (2, 4, 8):
            raise OptionError(f"vector must be 2, 4 or 8, is {self.vector}")
        if self.per not in ("tensor", "space"):
            raise OptionError(f"per must be tensor or space, is {self.per}")
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
                book, name = self._book(value, known), value.name or ""
                if book is None:
                    continue
                if is_table(value, book.shape):
                    look_up(value, VectorTable.of(decoder, book, name).rows)
                else:
                    edit.replace_uses(value, decoder.vectors(book, name))
                remove(scope, value)
                modified = True
        return ir.passes.PassResult(model, modified)

    def stored(self, model: ir.Model) -> dict[str, VectorCodebook]:
        """The initializers of the main graph as they would be stored; the model stays as it is."""
        if model.opset_imports.get("", 0) < MIN_OPSET:
            return {}
        found = {name: self._book(value, self.known) for name, value in model.graph.initializers.items()}
        return {name: book for name, book in found.items() if book is not None}

    def search(self, value: ir.Value, moments: Array, held_out: Array) -> VectorCodebook | None:
        """Vectors for the weight ``value``, by ``X^T X`` of what it is multiplied with; None where there are none."""
        weight = float_weight(value, self.only)
        if weight is None or not np.isfinite(weight).all():
            return None
        product = reduction_of(value, weight.shape)
        if product.length % self.vector:
            return None
        spaces, fitted = self.per == "space", {"moments": moments, "held_out": held_out}
        return in_vectors(weight, product, self.entries, self.vector, spaces=spaces, **fitted)[0]

    def _book(self, value: ir.Value, known: Mapping[str, VectorCodebook]) -> VectorCodebook | None:
        """The weight as it is stored; None where it stays as it is.

        Args:
            known: forms of weights of the same scope.
        """
        weight, name = float_weight(value, self.only), value.name or ""
        if weight is None:
            return None
        product = reduction_of(value, weight.shape)
        bits, spaces = code_bits(self.entries), self.per == "space"
        places = product.length // self.vector
        tables = 2 * self.entries * self.vector * (places if spaces else 1)
        least = weight.size // self.vector * bits // 8 + tables + 2 * product.outer * product.inner
        reason: str | None = None
        if is_excluded(value, self.exclude):
            reason = "excluded by the user"
        elif not np.isfinite(weight).all():
            reason = "the weight is not finite"
        elif product.length % self.vector:
            reason = f"what is summed up, {product.length}, cannot be cut into vectors of {self.vector}"
        elif is_table(value, weight.shape) and (weight.ndim != 2 or places * bits % 8):
            reason = f"a lookup of rows that are not whole bytes of {bits}-bit indices"
        elif least >= weight.nbytes - CODED_BYTES - 4 * len(name):
            reason = f"a table of {self.entries} vectors would take what indices save"
        elif name in known:
            return known[name]
        else:
            moments = second_moments(product, self.inputs, self.held_out)
            book, quality = in_vectors(
                weight, product, self.entries, self.vector, spaces=spaces, **moments
            )
            if quality >= self.min_sqnr_db:
                return book
            reason = f"{self.entries} vectors would leave {quality:.0f} dB, below {self.min_sqnr_db:g}"
        self.decline(name, reason)
        return None
