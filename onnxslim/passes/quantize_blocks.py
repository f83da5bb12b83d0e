"""Keep the weights of products in few bits while the model runs, for kernels that decode them block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.reductions import reduction_of
from onnxslim.analysis.selection import unpicked
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes._checked import refusals
from onnxslim.passes._rounding import coded, second_moments, summed
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.binary import as_codes
from onnxslim.reconstruct.blocks import Coded, View
from onnxslim.runtime.errors import RuntimeRefused
from onnxslim.runtime.kernels import executed
from onnxslim.runtime.targets.target import CPU, Fusion, Target
from onnxslim.runtime.targets.units import Unit, elements, find_units

__all__ = ["QuantizeBlocks"]

Array = npt.NDArray[Any]

_KERNEL = "MatMulNBits"
_PRODUCTS = Target(
    name="onnxruntime",
    runtime="onnxruntime",
    machine="any",
    provider=CPU,
    fusions=(
        Fusion("MatMul", _KERNEL, "float", weight_rank=2),
        Fusion("Gemm", _KERNEL, "float", attributes={"alpha": 1.0, "beta": 1.0, "transA": 0}, weight_rank=2),
    ),
)
_LEAST_BLOCK = 16  # of the kernel; blocks are powers of two
_SMALL = 1 << 16  # elements of a weight that stays near the processor anyway
_TYPES = {  # bits -> symmetric and asymmetric codes, the first operator set and version of the format
    8: (np.dtype(np.int8), np.dtype(np.uint8), 21, 10),
    4: (np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.uint4), 21, 10),
    2: (np.dtype(ml_dtypes.int2), np.dtype(ml_dtypes.uint2), 25, 13),
    1: (np.dtype(ml_dtypes.int2), np.dtype(ml_dtypes.uint2), 25, 13),  # there is no narrower type
}


@dataclass(frozen=True)
class QuantizeBlocks(Pass):
    """Store the weights of products in blocks of few bits, which the kernel decodes while it computes.

    With few rows of input, a product takes as long as bringing its weight from memory, so a quarter or an
    eighth of the bytes take that much less time (``pack-weights`` saves them in the file alone).

    1. A large constant weight of ``MatMul``, or of ``Gemm``, which becomes MatMul and Add, is read through a
       ``DequantizeLinear`` with a scale, and unless symmetric a zero point, for each ``block`` of what is
       summed up.  onnxruntime makes one kernel of the two, which computes in 8 bits; for that a ``Relu``
       behind it is written as ``Max``.
    2. A weight that fewer bits would leave noisier than ``narrow_sqnr_db`` has 8.
    3. With second moments of the inputs, weights are rounded by GPTQ, see ``pack-weights``.
    4. With 1 bit, weights are -1 or +1 times the scale, stored in 2 bits: the kernel has no fewer.
    5. The runtime builds the graph; a product that did not become the kernel goes back to float.

    Declined: products with more than ``max_rows`` rows of input, where the kernel is slower than floats;
    weights with another reader, with which the kernel cannot share them.

    Needs opset 21, for 2 bits and 1 bit 25 (see ``raise-opset``).

    Example:
        >>> x = ir.Value(name="x", shape=ir.Shape([1, 512]), type=ir.TensorType(ir.DataType.FLOAT))
        >>> graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21})
        >>> w = edit.add_initializer(graph, np.random.rand(512, 512).astype("f"), "w")
        >>> graph.append(ir.node("MatMul", [x, w]))
        >>> QuantizeBlocks(check=False)(ir.Model(graph, ir_version=10)).modified
        True
        >>> [(node.op_type, node.inputs[0].dtype.name) for node in graph]
        [('DequantizeLinear', 'INT4'), ('MatMul', 'FLOAT')]
    """

    name: ClassVar[str] = "quantize-blocks"
    promise: ClassVar[Promise] = Promise.LOSSY

    bits: Literal[8, 4, 2, 1] = field(default=4, metadata={"help": "the fewest bits of a weight"})
    block: int = field(default=128, metadata={"help": "weights that share a scale, at most"})
    symmetric: bool = field(default=True, metadata={"help": "codes have no zero points"})
    max_rows: int = field(default=8, metadata={"help": "rows of input up to which it pays"})
    dims: Mapping[str, int] = field(
        default_factory=dict, metadata={"help": "sizes of dimensions that the file leaves open"}
    )
    narrow_sqnr_db: float = field(
        default=16.0, metadata={"help": "keep 8 bits when fewer would be noisier than this"}
    )
    include: str = field(
        default="", metadata={"help": "only products of these: globs of names, or op:Gemm; default all"}
    )
    exclude: str = field(
        default="", metadata={"help": "leave these products: comma-separated globs of names, or op:Gemm"}
    )
    only: tuple[str, ...] = field(default=(), metadata={"help": "names of the weights; none: all"})
    inputs: Calibration | None = field(
        default=None, metadata={"help": "second moments of what weights are multiplied with"}
    )
    held_out: Calibration | None = field(
        default=None, metadata={"help": "the same of data that nothing was fitted to"}
    )
    check: bool = field(default=True, metadata={"help": "look at the graph that the runtime builds"})

    def __post_init__(self) -> None:
        if self.bits not in _TYPES:
            raise OptionError(f"bits must be 8, 4, 2 or 1, is {self.bits}")
        if self.block < _LEAST_BLOCK or self.block & (self.block - 1):
            raise OptionError(f"block must be a power of two from {_LEAST_BLOCK} on, is {self.block}")

    @property
    def min_opset(self) -> int:
        """The first operator set that has the type."""
        return _TYPES[self.bits][2]

    def stored(self, model: ir.Model) -> dict[str, Coded]:
        """The weights as they would be stored, in whatever operator set; the model stays as it is."""
        units, _ = self._plan(model, {})
        sources = {unit.weight.name or "": unit for unit in units if unit.weight is not None}
        return {name: self._coded(unit) for name, unit in sources.items()}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        where, opset = model.graph.name or "graph", model.opset_imports.get("", 0)
        if opset < self.min_opset:
            why = f"blocks of {self.bits} bits need opset {self.min_opset}, the model has {opset}"
            self.decline(where, why)
            return ir.passes.PassResult(model, False)
        codes: dict[str, Coded] = {}
        refused: Mapping[str, str] = {}
        if self.check:
            try:
                refused = refusals(lambda known: self._missed(edit.copy_of(model), known, codes))
            except RuntimeRefused as error:
                self.decline(where, f"quantized it does not run: {error.what}")
                return ir.passes.PassResult(model, False)
        units, reasons = self._plan(model, refused)
        for node, why in reasons.items():
            self.decline(node.name or node.outputs[0].name or "", why)
        self._rewrite(model, units, codes)
        if units:
            model.ir_version = max(model.ir_version, _TYPES[self.bits][-1])
        return ir.passes.PassResult(model, bool(units))

    def _missed(self, trial: ir.Model, refused: Mapping[str, str], codes: dict[str, Coded]) -> dict[str, str]:
        """Outputs of the products of which the runtime makes no kernel; ``trial`` is spent."""
        units, _ = self._plan(trial, refused)
        names = [unit.output.name or "" for unit in units]
        if not units:
            return {}
        decoded = self._rewrite(trial, units, codes)
        trial.ir_version = max(trial.ir_version, _TYPES[self.bits][-1])
        built = executed(trial)
        return {
            name: f"the runtime does not make {_KERNEL} of it"
            for name, weight in zip(names, decoded, strict=True)
            if built.kernel_of(weight) is not None
        }

    def _plan(
        self, model: ir.Model, refused: Mapping[str, str]
    ) -> tuple[Sequence[Unit], Mapping[ir.Node, str]]:
        shapes = infer(model, self.dims)

        def refuse(unit: Unit) -> str | None:
            known = unpicked(unit.node, self.include, self.exclude) or refused.get(unit.output.name or "")
            if self.only and unit.weight is not None and unit.weight.name not in self.only:
                known = known or "its weight is not asked for"
            return known or self._unfit(unit, shapes)

        units: list[Unit] = []
        reasons: dict[ir.Node, str] = {}
        for graph in edit.graphs(model):
            found, unfit = find_units(graph, _PRODUCTS, refuse)
            units += found
            reasons |= {
                node: why
                for node, why in unfit.items()
                if _PRODUCTS.fusion(node.op_type) and edit.constant_value(node.inputs[1]) is not None
            }
        return units, reasons

    def _unfit(self, unit: Unit, shapes: Shapes) -> str | None:
        """Why the kernel would not pay."""
        assert unit.weight is not None and unit.weight.shape is not None
        extents, channels = unit.weight.shape.numpy(), unit.weight.shape.numpy()[unit.weight_axis]
        length = extents[1 - unit.weight_axis]
        if shapes.shape(unit.output) is None:
            return "the rows of its input are not known"
        rows = elements(unit.output, shapes) / channels
        if rows > self.max_rows:
            return f"with {rows:.0f} rows of input, {_KERNEL} does not pay: max_rows is {self.max_rows}"
        if channels * length < _SMALL:
            return f"its weight has {channels * length} elements: {_KERNEL} does not pay below {_SMALL}"
        if _block(length, self.block) < _LEAST_BLOCK:
            return f"{length} cannot be cut into blocks that are powers of two"
        if len(unit.weight.uses()) > 1:
            return f"its weight has other readers, and {_KERNEL} shares it with none"
        return None

    def _rewrite(self, model: ir.Model, units: Sequence[Unit], codes: dict[str, Coded]) -> list[str]:
        """Quantize; returns the name of each one's weight behind its conversion."""
        decoded = []
        for unit in units:
            source = unit.weight
            assert source is not None and source.name is not None
            if source.name not in codes:
                codes[source.name] = self._coded(unit)
            stored = _store(model.graph, codes[source.name], source.name)
            weight = _dequantized(unit.node, stored, f"{source.name}_dequantized")
            for relu in _relus(_multiply(unit, weight)):
                _as_max(model.graph, relu)
            edit.remove_unread(source)
            decoded.append(weight.name or "")
        return decoded

    def _coded(self, unit: Unit) -> Coded:
        source, axis = unit.weight, unit.weight_axis
        assert source is not None
        weight = edit.constant_value(source)
        assert weight is not None
        product = reduction_of(source, weight.shape)
        length = weight.shape[1 - axis]
        outer, inner = (1, weight.shape[1]) if axis == 1 else (weight.shape[0], 1)
        view = View(outer, length, inner, _block(length, self.block))
        name = source.name or ""
        fitted = second_moments(product, self.inputs, self.held_out)
        for bits in (self.bits, 8):
            if bits == 1:
                signs, quality = summed(weight, product, view, 1, **fitted)
                codes = as_codes(signs)
            else:
                codes, quality = coded(weight, product, view, bits, symmetric=self.symmetric, **fitted)
            if bits == 8 or quality >= self.narrow_sqnr_db:
                return codes
            why = f"{bits} bits would leave {quality:.0f} dB, below {self.narrow_sqnr_db:g}: it has 8"
            self.decline(name, why)
        raise AssertionError("8 bits always do")


def _store(graph: ir.Graph, codes: Coded, name: str) -> list[ir.Value]:
    """The codes ``[in, out]``, the scales and the zero points ``[blocks, out]``."""
    signed, unsigned, *_ = _TYPES[codes.bits]
    _, blocks, block, _ = codes.codes.shape
    matrix = np.moveaxis(codes.codes, 0, 2).reshape(blocks * block, -1)
    parts = {"scale": np.moveaxis(codes.scale, 0, 2).reshape(blocks, -1).astype(np.float32)}
    if codes.zero.size == 1:
        integers = (matrix.astype(np.int16) - int(codes.zero.flat[0])).astype(signed)
    else:
        integers = matrix.astype(unsigned)
        parts["zero_point"] = np.moveaxis(codes.zero, 0, 2).reshape(blocks, -1).astype(unsigned)
    return [
        edit.add_initializer(graph, array, f"{name}_{what}")
        for what, array in {"quantized": integers, **parts}.items()
    ]


def _block(length: int, most: int) -> int:
    """The largest power of two that divides a length, ``most`` at most.

    Example:
        >>> _block(384, 256), _block(100, 128)
        (128, 4)
    """
    return min(length & -length, most)


def _dequantized(before: ir.Node, stored: Sequence[ir.Value], name: str) -> ir.Value:
    q, scale = stored[:2]
    assert before.graph is not None and q.shape is not None and scale.shape is not None
    block = q.shape.numpy()[0] // scale.shape.numpy()[0]
    node = edit.new_node("DequantizeLinear", stored, {"axis": 0, "block_size": block})
    value = node.outputs[0]
    value.name = edit.unique_name(before.graph, name)
    value.shape, value.type = q.shape, ir.TensorType(ir.DataType.FLOAT)
    before.graph.insert_before(before, [node])
    return value


def _multiply(unit: Unit, weight: ir.Value) -> ir.Value:
    """Let the unit read ``weight``, ``[in, out]``; a Gemm becomes MatMul and Add, which alone are fused."""
    node, old = unit.node, unit.node.outputs[0]
    if node.op_type == "MatMul":
        node.replace_input_with(1, weight)
        return old
    graph = node.graph
    assert graph is not None
    new = [edit.new_node("MatMul", [node.inputs[0], weight], name=node.name)]
    new[0].metadata_props.update(node.metadata_props)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        new.append(edit.new_node("Add", [new[0].outputs[0], node.inputs[2]]))
    for each in new:
        each.outputs[0].name = edit.unique_name(graph, f"{old.name}_{each.op_type.lower()}")
        each.outputs[0].shape, each.outputs[0].type = old.shape, old.type
    graph.insert_before(node, new)
    _replace(node, new[-1].outputs[0])
    return new[-1].outputs[0]


def _relus(product: ir.Value) -> list[ir.Node]:
    """The Relus behind a product, or behind its bias."""
    sums = (
        user.outputs[0]
        for user, index in product.uses()
        if user.op_type == "Add" and edit.constant_value(user.inputs[1 - index]) is not None
    )
    users = (user for value in (product, *sums) for user, _ in value.uses())
    return [user for user in users if user.op_type == "Relu" and user.domain == ""]


def _as_max(main: ir.Graph, relu: ir.Node) -> None:
    """Write ``Relu(x)`` as ``Max(x, 0)``: onnxruntime 1.32 looks behind a Relu for a quantizer, and where there
    is none makes no kernel of the product in front."""
    zero = edit.add_initializer(main, np.array(0, np.float32), "zero")
    node = edit.new_node("Max", [relu.inputs[0], zero], name=relu.name)
    node.metadata_props.update(relu.metadata_props)
    assert relu.graph is not None
    node.outputs[0].name = edit.unique_name(relu.graph, f"{relu.outputs[0].name}_max")
    node.outputs[0].shape, node.outputs[0].type = relu.outputs[0].shape, relu.outputs[0].type
    relu.graph.insert_before(relu, [node])
    _replace(relu, node.outputs[0])


def _replace(node: ir.Node, result: ir.Value) -> None:
    """Let ``result`` take the place and the name of what ``node`` computes."""
    old = node.outputs[0]
    name = old.name
    edit.replace_uses(old, result)
    edit.remove_node(node)
    result.name = name
