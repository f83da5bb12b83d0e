"""Store weights as sums of few signs times scales: one bit for each weight and sign."""

from __future__ import annotations

import math
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
from onnxslim.passes._rounding import second_moments, summed
from onnxslim.passes._tables import SummedTable
from onnxslim.passes._weights import (
    constants,
    float_weight,
    integer_weight,
    is_excluded,
    is_table,
    look_up,
    remove,
)
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.binary import MAX_BASES, Binary, binarize_integers
from onnxslim.reconstruct.blocks import View
from onnxslim.reconstruct.rounding import sqnr_db

__all__ = ["BinarizeWeights"]

Array = npt.NDArray[Any]

_AXIS_OPSET = 13  # DequantizeLinear has scales along an axis


@dataclass(frozen=True)
class BinarizeWeights(Pass):
    """Store float32 weights as ``a_1 * b_1 + ... + a_k * b_k``, where each ``b`` is -1 or +1.

    Each output channel, or block of what it sums up, has scales of its own.  One basis is the binary weight
    of the literature; two and three come near 3 and 4 bits with evenly spaced levels.

    1. ``packed``: signs are stored eight to a byte, one bit each, and decoded by ``BitShift``, ``Mod`` and
       arithmetic that onnxruntime computes while it loads the model, at every optimization level but "none",
       also in branches; the kernels and their speed stay what they were.  A large table that only ``Gather``
       reads along its first axis stays packed in memory too: rows are looked up first.
    2. An int8 weight in front of ``DequantizeLinear``, or of an integer operator, is packed likewise and
       decoded to int8: integer kernels keep their speed, and the scales behind the weight are untouched.
    3. ``qdq``: each basis is an int8 tensor of -1 and +1 behind a ``DequantizeLinear`` with a scale for each
       channel, and the bases are added up.  It is what other tools read as binary weights, and a basis alone
       becomes an integer kernel; no file gets smaller than with ``packed``.
    4. With second moments of the inputs, signs and scales are fitted to the product's output, where that
       helps on ``held_out``, and the noise is that of this output.

    For products that wait for their weights, ``quantize-blocks`` keeps signs in memory too.  Vectors stay as
    they are.  Declined: weights whose signal to noise ratio would fall below ``min_sqnr_db``, that would not
    become smaller, or that are not finite.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.random.rand(64, 64).astype("f"), "w")
        >>> graph.append(ir.node("Relu", [w]))
        >>> BinarizeWeights(bases=2)(ir.Model(graph, ir_version=8)).modified, graph.initializers["w_q"].shape
        (True, Shape([1, 1024]))
    """

    name: ClassVar[str] = "binarize-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    bases: int = field(default=3, metadata={"help": "signs for each weight, 1 to 4"})
    block: int = field(
        default=0, metadata={"help": "values that share scales; 0: those of an output channel"}
    )
    container: Literal["packed", "qdq"] = field(
        default="packed",
        metadata={"help": "packed: a bit for each sign; qdq: an int8 for each, for other tools"},
    )
    min_sqnr_db: float = field(
        default=3.0, metadata={"help": "leave a weight alone when it would be noisier than this"}
    )
    exclude: str = field(
        default="",
        metadata={"help": "leave these weights alone: comma-separated globs of names, or op:Conv by readers"},
    )
    only: tuple[str, ...] = field(default=(), metadata={"help": "names of the weights; none: all"})
    inputs: Calibration | None = field(
        default=None, metadata={"help": "second moments of what weights are multiplied with"}
    )
    held_out: Calibration | None = field(
        default=None, metadata={"help": "the same of data that nothing was fitted to"}
    )
    known: Mapping[str, Binary] = field(
        default_factory=dict,
        metadata={"help": "signs and scales that were found elsewhere, by the weight's name in the main graph"},
    )

    def __post_init__(self) -> None:
        if not 1 <= self.bases <= MAX_BASES:
            raise OptionError(f"bases must be 1 to {MAX_BASES}, is {self.bases}")
        if not self.block >= 0:
            raise OptionError(f"block must not be negative, is {self.block}")
        if self.container not in ("packed", "qdq"):
            raise OptionError(f"container must be packed or qdq, is {self.container}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset, packed = model.opset_imports.get("", 0), self.container == "packed"
        least = MIN_OPSET if packed else _AXIS_OPSET
        if opset < least:
            self.decline(model.graph.name or "graph", f"opset {opset} is older than {least}")
            return ir.passes.PassResult(model, False)
        modified = False
        for scope in edit.scopes(model):
            decoder = Decoder(scope)
            known = self.known if scope is model.graph else {}  # functions have names of their own
            for value in list(constants(scope)):
                form = self._form(value, known)
                if form is not None:
                    modified |= self._pack(value, form, decoder) if packed else self._spread(value, form, scope)
        return ir.passes.PassResult(model, modified)

    def stored(self, model: ir.Model) -> dict[str, Binary]:
        """The initializers of the main graph as they would be stored; the model stays as it is."""
        if model.opset_imports.get("", 0) < MIN_OPSET:
            return {}
        found = {name: self._form(value, self.known) for name, value in model.graph.initializers.items()}
        return {name: form for name, form in found.items() if form is not None}

    def _pack(self, value: ir.Value, form: Binary, decoder: Decoder) -> bool:
        name = value.name or ""
        if not form.is_integer and is_table(value, form.shape):
            look_up(value, SummedTable.of(decoder, form, name).rows)
        else:
            edit.replace_uses(value, decoder.summed(form, name))
        remove(decoder.scope, value)
        return True

    def _spread(self, value: ir.Value, form: Binary, scope: edit.Scope) -> bool:
        """Each basis behind a DequantizeLinear of its own."""
        name, axis = value.name or "", _axis(form)
        if axis is None:
            self.decline(name, "its scales do not lie along one axis")
            return False
        first = next(iter(scope))
        total: ir.Value | None = None
        for number, (bits, scale) in enumerate(zip(form.bits, form.scale, strict=True), 1):
            parts = {
                "b": (2 * bits.astype(np.int8) - 1).reshape(form.shape),
                "s": scale.astype(np.float32).reshape(-1),
                "z": np.zeros(scale.size, np.int8),
            }
            stored = [
                edit.add_constant(scope, array, f"{name}_{what}{number}", before=first)
                for what, array in parts.items()
            ]
            basis = _added(scope, first, "DequantizeLinear", stored, f"{name}_d{number}", form, axis=axis)
            total = basis if total is None else _added(
                scope, first, "Add", [total, basis], f"{name}_w{number}", form
            )
        assert total is not None
        edit.replace_uses(value, total)
        remove(scope, value)
        return True

    def _form(self, value: ir.Value, known: Mapping[str, Binary]) -> Binary | None:
        """The weight as it is stored; None where it stays as it is.

        Args:
            known: forms of weights of the same scope.
        """
        name = value.name or ""
        integers = integer_weight(value, self.only) if self.container == "packed" else None
        weight = integers[0] if integers is not None else float_weight(value, self.only)
        if weight is None:
            return None
        if is_excluded(value, self.exclude):
            self.decline(name, "excluded by the user")
            return None
        if not np.isfinite(weight).all():
            self.decline(name, "the weight is not finite")
            return None
        if is_table(value, weight.shape) and self.container == "qdq":
            self.decline(name, "a lookup: a DequantizeLinear would decode the whole table in every run")
            return None
        if is_table(value, weight.shape) and (weight.ndim != 2 or weight.shape[1] * self.bases % 8):
            self.decline(name, "a lookup of rows whose signs are not whole bytes")
            return None
        product = reduction_of(value, weight.shape) if integers is None else integers[1]
        view = View(product.outer, product.length, product.inner).blocked(self.block)
        outer, blocks, _, inner = view.shape
        least = self.bases * (weight.size / 8 + (1 if integers else 2) * outer * blocks * inner)
        if self.container == "packed" and least + CODED_BYTES + 4 * len(name) > weight.nbytes:
            self.decline(name, f"{self.bases} signs a weight and their scales would not be smaller")
            return None
        found = known.get(name)
        if found is not None and (found.shape, found.is_integer) == (weight.shape, integers is not None):
            return found
        if integers is not None:
            form = binarize_integers(integers[0], view, self.bases)
            quality = sqnr_db(weight.astype(np.float64), form.decode().astype(np.float64))
        else:
            form, quality = summed(
                weight, product, view, self.bases, **second_moments(product, self.inputs, self.held_out)
            )
        if quality < self.min_sqnr_db or math.isnan(quality):
            self.decline(name, f"{self.bases} signs would leave {quality:.0f} dB, below {self.min_sqnr_db:g}")
            return None
        return form


def _axis(form: Binary) -> int | None:
    """The axis of the weight along which its scales lie; None where there is none."""
    _, outer, blocks, _, inner = form.bits.shape
    if blocks > 1:
        return None
    if inner == 1 and outer == form.shape[0]:
        return 0
    return len(form.shape) - 1 if outer == 1 and inner == form.shape[-1] else None


def _added(
    scope: edit.Scope,
    first: ir.Node,
    op_type: str,
    inputs: list[ir.Value],
    name: str,
    form: Binary,
    **attributes: Any,
) -> ir.Value:
    node = edit.new_node(op_type, inputs, attributes)
    value = node.outputs[0]
    value.name = edit.unique_name(scope, name)
    value.shape, value.type = ir.Shape(form.shape), ir.TensorType(ir.DataType.FLOAT)
    scope.insert_before(first, [node])
    return value
