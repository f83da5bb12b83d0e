"""How far a model is quantized: what computes with integers, and in how many bits weights are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.analysis.constants import tensor_of
from onnxslim.model.edit import scopes
from onnxslim.ops.registry import is_dequantize, is_quantize, spec_of
from onnxslim.ops.spec import OpSpec

__all__ = ["Quantization", "quantization"]

_FEW_BYTES = 1024  # of a narrow tensor that is no weight: a table, a mask


@dataclass(frozen=True, slots=True)
class Quantization:
    """The state of one model.

    Attributes:
        kind: ``none``, ``qdq``, ``integer`` (integer operators), ``weights`` (only weights are stored in
            few bits) or several of these joined by ``+``.
        quantize, dequantize: nodes that go from floats to integers and back.
        pairs: dequantizing nodes that read a quantizing one.
        stored: dequantizing nodes that read a stored tensor.
        integer: operators that compute with integers, with counts.
        weight_bits: bits -> elements of the stored tensors of rank 2 and more; packed ones count by what they
            hold.
        products: nodes that multiply and accumulate.
        quantized: those of them that compute with integers, or all of whose operands are dequantized.
        weight_only: those of which only the weight is stored in few bits.
    """

    kind: str
    quantize: int
    dequantize: int
    pairs: int
    stored: int
    integer: Mapping[str, int]
    weight_bits: Mapping[int, int]
    products: int
    quantized: int
    weight_only: int


def quantization(model: ir.Model, sources: Mapping[ir.Value, tuple[ir.Value, ...]]) -> Quantization:
    """Describe; no weight is read.

    Args:
        sources: :func:`onnxslim.analysis.constants.constant_sources` of the model.

    Example:
        >>> import onnx.parser
        >>> from onnxslim.analysis.constants import constant_sources
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]> g (float[1,2] x) => (y)
        ...     <int8[2,2] w = {1,2,3,4}, float s = {0.1}, int8 z = {0}>
        ...     { d = DequantizeLinear(w, s, z) y = MatMul(x, d) }'''
        >>> model = ir.from_proto(onnx.parser.parse_model(text))
        >>> found = quantization(model, constant_sources(model))
        >>> found.kind, found.stored, found.weight_bits, found.products, found.weight_only
        ('weights', 1, {8: 4}, 1, 1)
    """
    counts = Counter[str]()
    integer = Counter[str]()
    packed: dict[ir.Value, int] = {}
    dequantized: set[ir.Value] = set()
    for scope in scopes(model):
        for node in scope:
            spec = spec_of(node)
            if is_quantize(node):
                counts["quantize"] += 1
            elif is_dequantize(node):
                counts["dequantize"] += 1
                counts[_origin(node, sources)] += 1
                dequantized.update(node.outputs)
            elif spec is not None and _moves_all(node, spec, dequantized):
                dequantized.update(node.outputs)
            if spec is None or spec.quant is None:
                continue
            if spec.quant.integer:
                integer[node.op_type] += 1
            if spec.quant.packed is not None and len(node.inputs) > 1 and node.inputs[1] is not None:
                packed[node.inputs[1]] = spec.quant.packed(node)
            if spec.macs is not None:
                counts["products"] += 1
                counts[_operands(node, spec, dequantized, sources)] += 1
    stored = [value for value, origin in sources.items() if origin == (value,)]
    few = any(_is_narrow(value, _FEW_BYTES) for value in stored)
    return Quantization(
        kind=_kind(counts, integer, few),
        quantize=counts["quantize"],
        dequantize=counts["dequantize"],
        pairs=counts["pairs"],
        stored=counts["stored"],
        integer=dict(integer.most_common()),
        weight_bits=_bits(stored, packed),
        products=counts["products"],
        quantized=counts["quantized"],
        weight_only=counts["weight only"],
    )


def _kind(counts: Mapping[str, int], integer: Mapping[str, int], few: bool) -> str:
    found = ["qdq"] * bool(counts["quantize"]) + ["integer"] * bool(integer)
    if not found and (counts["dequantize"] or few):
        found.append("weights")
    return "+".join(found) or "none"


def _origin(node: ir.Node, sources: Mapping[ir.Value, tuple[ir.Value, ...]]) -> str:
    """Where a dequantizing node gets its integers from."""
    value = node.inputs[0] if node.inputs else None
    producer = None if value is None else value.producer()
    if producer is not None and is_quantize(producer):
        return "pairs"
    return "stored" if value in sources else "elsewhere"


def _moves_all(node: ir.Node, spec: OpSpec, dequantized: set[ir.Value]) -> bool:
    """Whether the outputs are dequantized values in another order."""
    moved = [node.inputs[index] for index in spec.moved_inputs(node) if index < len(node.inputs)]
    return bool(moved) and all(value in dequantized for value in moved)


def _operands(
    node: ir.Node,
    spec: OpSpec,
    dequantized: set[ir.Value],
    sources: Mapping[ir.Value, tuple[ir.Value, ...]],
) -> str:
    role = spec.quant
    assert role is not None
    if role.packed is not None:
        return "weight only"
    if role.integer:
        return "quantized"
    wanted = {*role.indices(node), *(() if role.weight is None else (role.weight,))}
    values = [node.inputs[index] for index in wanted if index < len(node.inputs)]
    if values and all(value in dequantized for value in values):
        return "quantized"
    if role.weight is None or role.weight >= len(node.inputs):
        return "float"
    weight = node.inputs[role.weight]
    origin = () if weight is None else sources.get(weight, ())
    return "weight only" if any(_is_narrow(value) for value in origin) else "float"


def _is_narrow(value: ir.Value, more_than: int = 0) -> bool:
    """Whether a stored tensor has elements of fewer bits than any float that is computed with."""
    tensor = tensor_of(value)
    return (
        tensor is not None
        and tensor.dtype in _NARROW
        and tensor.nbytes > more_than
        and (more_than > 0 or len(tensor.shape) > 1)
    )


_NARROW = frozenset(
    dtype
    for dtype in ir.DataType
    if dtype in (ir.DataType.INT16, ir.DataType.UINT16)
    or (dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING, ir.DataType.BOOL) and dtype.bitwidth <= 8)
)


def _bits(stored: list[ir.Value], packed: Mapping[ir.Value, int]) -> dict[int, int]:
    """Bits -> elements, the narrowest first."""
    counted = Counter[int]()
    for value in stored:
        tensor = tensor_of(value)
        if tensor is None or len(tensor.shape) < 2 or tensor.dtype == ir.DataType.STRING:
            continue
        bits = packed.get(value, tensor.dtype.bitwidth)
        counted[bits] += tensor.nbytes * 8 // bits if value in packed else tensor.size
    return dict(sorted(counted.items()))
