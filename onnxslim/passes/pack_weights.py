"""Store float weights as integers of 8 bits or fewer that the runtime decodes once, while it loads the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.reductions import reduction_of
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of
from onnxslim.passes._decoding import CODED_BYTES, MIN_OPSET, Decoder
from onnxslim.passes._rounding import Known, coded, second_moments
from onnxslim.passes._tables import Table
from onnxslim.passes._weights import constants, float_weight, is_excluded, is_table, look_up, remove
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.blocks import Coded, View
from onnxslim.reconstruct.rounding import Rounded, round_best, round_symmetric, sqnr_db

__all__ = ["PackWeights"]

Array = npt.NDArray[Any]

_MIN_OPSET = 7  # arithmetic broadcasts since then
_CLEARLY_DB = 6.0


@dataclass(frozen=True)
class PackWeights(Pass):
    """Store float32 weights as integers with scales, behind nodes that onnxruntime computes at load.

    onnxruntime folds the nodes while it loads the model, at every optimization level but "none", also in
    branches; the kernels then see float weights as before, fused as before.  So the file shrinks to a quarter,
    or an eighth, and the speed stays exactly what it was.  (``DequantizeLinear`` would not do: it is kept for
    run time.)

    1. A large table that only ``Gather`` reads along its first axis stays packed in memory too: rows are
       gathered first and decoded then.
    2. Any other weight is decoded as a whole; all its readers share the decoded tensor, so tied weights are
       packed once.
    3. Fewer than 8 bits are several codes to a byte, decoded by ``BitShift`` and ``Mod`` (opset 11), with a
       scale for each ``block`` along what a product sums up.  A weight stays at 8 bits where fewer leave more
       noise than ``narrow_sqnr_db`` or do not make the file smaller.
    4. With second moments of the inputs, weights are rounded by GPTQ, and the noise is that of the product's
       output; rounding to nearest is kept where it does better on ``held_out``.

    Of 8 bits without blocks, scales lie along the axis, or two, that leave the least error.  Vectors (biases,
    scales of a normalisation) stay as they are: they are few bytes, and with one scale they are much noise.
    Declined: weights whose signal to noise ratio would fall below ``min_sqnr_db``, or whose decoded values
    would not be finite.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.random.rand(64, 64).astype("f"), "w")
        >>> graph.append(ir.node("Relu", [w]))
        >>> PackWeights()(ir.Model(graph, ir_version=8)).modified, [node.op_type for node in graph]
        (True, ['Cast', 'Mul', 'Relu'])
    """

    name: ClassVar[str] = "pack-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    bits: Literal[8, 4, 2] = field(default=8, metadata={"help": "the fewest bits of a weight"})
    block: int = field(
        default=0, metadata={"help": "values that share a scale; 0: those of an output channel, or more"}
    )
    symmetric: bool = field(default=True, metadata={"help": "codes have no zero points"})
    min_sqnr_db: float = field(
        default=25.0, metadata={"help": "leave a weight in float when its rounding is noisier than this"}
    )
    narrow_sqnr_db: float = field(
        default=16.0, metadata={"help": "keep 8 bits when fewer would be noisier than this"}
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
    known: Mapping[str, Known] = field(
        default_factory=dict,
        metadata={"help": "codes that were found elsewhere, with their signal to noise ratio in dB"},
    )

    def __post_init__(self) -> None:
        for name in ("min_sqnr_db", "narrow_sqnr_db", "block"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"{name} must not be negative, is {getattr(self, name)}")
        if self.bits not in (8, 4, 2):
            raise OptionError(f"bits must be 8, 4 or 2, is {self.bits}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        if opset < _MIN_OPSET:
            self.decline(model.graph.name or "graph", f"opset {opset} is older than {_MIN_OPSET}")
            return ir.passes.PassResult(model, False)
        modified = False
        coding = self.bits < 8 or self.block > 0
        if coding and opset < MIN_OPSET:
            self.decline(model.graph.name or "graph", f"8 bits a channel: fewer need opset {MIN_OPSET}")
            coding = False
        for scope in edit.scopes(model):
            decoder = Decoder(scope) if coding else None
            known = self.known if scope is model.graph else {}  # functions have names of their own
            for value in list(constants(scope)):
                modified |= self._pack(scope, value, decoder, known)
        return ir.passes.PassResult(model, modified)

    def stored(self, model: ir.Model) -> dict[str, Coded | Rounded]:
        """The initializers of the main graph as they would be stored; the model stays as it is."""
        found: dict[str, Coded | Rounded] = {}
        for name, value in model.graph.initializers.items():
            weight = float_weight(value, self.only)
            if weight is not None and not is_excluded(value, self.exclude):
                coding = model.opset_imports.get("", 0) >= MIN_OPSET
                form = self._form(value, weight, self.known, coding=coding)
                if form is not None:
                    found[name] = form
        return found

    def _pack(
        self,
        scope: edit.Scope,
        value: ir.Value,
        decoder: Decoder | None,
        known: Mapping[str, Known],
    ) -> bool:
        weight = float_weight(value, self.only)
        if weight is None:
            return False
        name = value.name or ""
        if is_excluded(value, self.exclude):
            self.decline(name, "excluded by the user")
            return False
        form = self._form(value, weight, known, coding=decoder is not None)
        if form is None:
            return False
        if isinstance(form, Coded):
            assert decoder is not None
            if is_table(value, weight.shape):
                look_up(value, Table.of(decoder, form, name).rows)
            else:
                edit.replace_uses(value, decoder.whole(form, name))
        elif is_table(value, weight.shape):
            _decode_rows(scope, value, form)
        else:
            _decode_whole(scope, value, form)
        remove(scope, value)
        return True

    def _form(
        self, value: ir.Value, weight: Array, known: Mapping[str, Known], *, coding: bool
    ) -> Coded | Rounded | None:
        """The weight as it is stored; None where it stays as it is.

        Args:
            known: codes of weights of the same scope.
        """
        name, lookup = value.name or "", is_table(value, weight.shape)
        if not np.isfinite(weight).all():
            self.decline(name, "the weight is not finite")
            return None
        coding &= self.bits < 8 or self.block > 0
        codes = self._code(value, weight, lookup, known.get(name)) if coding else None
        if codes is not None:
            return codes
        rounded = _round_rows(weight) if lookup else round_best(weight)
        decoded = rounded.decode()
        quality = sqnr_db(weight, decoded)
        if not np.isfinite(decoded).all() or quality < self.min_sqnr_db:
            self.decline(name, f"8 bits would leave {quality:.0f} dB, below {self.min_sqnr_db:g}")
            return None
        return rounded

    def _code(
        self, value: ir.Value, weight: Array, lookup: bool, known: Known | None
    ) -> Coded | None:
        """The weight in blocks, or of few bits; None where it is better off with a scale a channel and 8 bits."""
        bits, name = self.bits, value.name or ""
        if lookup and weight.ndim != 2:
            return None
        if (weight.shape[-1] if lookup else weight.size) % (8 // bits):
            return None
        product = reduction_of(value, weight.shape)
        view = View(product.outer, product.length, product.inner).blocked(self.block)
        if known is not None and known.serves(weight, bits):
            codes, quality = known.codes, known.sqnr_db
        else:
            moments = second_moments(product, self.inputs, self.held_out)
            codes, quality = coded(weight, product, view, bits, symmetric=self.symmetric, **moments)
        if bits < 8 and codes.nbytes + CODED_BYTES + 4 * len(name) > weight.size + 4 * min(weight.shape):
            return None
        least = self.narrow_sqnr_db if bits < 8 else self.min_sqnr_db
        if quality >= least:
            return codes
        if bits < 8:
            self.decline(name, f"{bits} bits would leave {quality:.0f} dB, below {least:g}: it has 8")
        return None

def _round_rows(weight: Array) -> Rounded:
    """Scales that can be applied to single rows: one for each column, or for each row where that is clearly
    better, since those have to be looked up too."""
    columns = round_symmetric(weight, tuple(range(1, weight.ndim)))
    rows = round_symmetric(weight, (0,))
    gain = sqnr_db(weight, rows.decode()) - sqnr_db(weight, columns.decode())
    return rows if gain > _CLEARLY_DB else columns


def _decode_whole(scope: edit.Scope, value: ir.Value, rounded: Rounded) -> None:
    first = next(iter(scope))
    q = _store(scope, rounded.q, f"{value.name}_q", first)
    scale = _store(scope, rounded.scale, f"{value.name}_s", first)
    nodes = []
    if not _per_output(value, rounded):
        # OpenVINO 2026.4 takes Cast and Mul before a product for scales per output channel, wherever they lie,
        # and computes something else; it does not look through a second Cast
        nodes.append(edit.new_node("Cast", [q], {"to": ir.DataType.INT32}))
        q = nodes[0].outputs[0]
    cast = edit.new_node("Cast", [q], {"to": ir.DataType.FLOAT})
    mul = edit.new_node("Mul", [cast.outputs[0], scale])
    _insert(scope, first, [*nodes, cast, mul], rounded.q.shape, value)
    edit.replace_uses(value, mul.outputs[0])


def _per_output(value: ir.Value, rounded: Rounded) -> bool:
    """Whether the scales lie along the output channels of every reader of the weight, or there is only one."""
    axes = tuple(axis for axis, size in enumerate(rounded.scale.shape) if size > 1)
    for user, index in value.uses():
        spec = spec_of(user)
        role = spec.quant if spec is not None else None
        if role is None or role.weight != index or role.weight_axis is None:
            continue
        axis = role.weight_axis(user)
        if axes and axes != ((axis or 0) % rounded.q.ndim,):
            return False
    return True


def _decode_rows(scope: edit.Scope, value: ir.Value, rounded: Rounded) -> None:
    first = next(iter(scope))
    q = _store(scope, rounded.q, f"{value.name}_q", first)
    per_row = rounded.scale.shape[0] > 1
    array = rounded.scale if per_row else rounded.scale[0]
    scale = _store(scope, array, f"{value.name}_s", first)

    def rows(gather: ir.Node) -> ir.Value:
        owner = gather.graph
        assert owner is not None
        old, indices = gather.outputs[0], gather.inputs[1]
        looked_up = edit.new_node("Gather", [q, indices], {"axis": 0})
        new = [looked_up]
        factor = scale
        if per_row:
            factors = edit.new_node("Gather", [scale, indices], {"axis": 0})
            new.append(factors)
            factor = factors.outputs[0]
        cast = edit.new_node("Cast", [looked_up.outputs[0]], {"to": ir.DataType.FLOAT})
        mul = edit.new_node("Mul", [cast.outputs[0], factor])
        new += [cast, mul]
        for node in new:
            _name(owner, node.outputs[0], f"{old.name}_{node.op_type.lower()}")
        mul.outputs[0].shape, mul.outputs[0].type = old.shape, old.type
        owner.insert_before(gather, new)
        return mul.outputs[0]

    look_up(value, rows)


def _store(scope: edit.Scope, array: Array, name: str, first: ir.Node) -> ir.Value:
    if isinstance(scope, ir.Graph):
        return edit.add_initializer(scope, array, name)
    tensor = edit.tensor_from(array, name)  # functions have no initializers
    node = edit.new_node("Constant", [], {"value": tensor})
    _name(scope, node.outputs[0], name)
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    scope.insert_before(first, [node])
    return node.outputs[0]


def _insert(
    scope: edit.Scope, first: ir.Node, nodes: Sequence[ir.Node], shape: tuple[int, ...], value: ir.Value
) -> None:
    for node, suffix, dtype in zip(
        reversed(nodes), "wfi", (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT32), strict=False
    ):
        _name(scope, node.outputs[0], f"{value.name}_{suffix}")
        node.outputs[0].shape, node.outputs[0].type = ir.Shape(shape), ir.TensorType(dtype)
    scope.insert_before(first, nodes)


def _name(owner: edit.Scope, value: ir.Value, hint: str) -> None:
    value.name = edit.unique_name(owner, hint)
