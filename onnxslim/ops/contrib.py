"""Operators of onnxruntime's own domain ``com.microsoft`` that exporters and optimizers write.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from onnxslim._ir import ir
from onnxslim.ops import heads
from onnxslim.ops.attributes import has, int_of
from onnxslim.ops.contrib_steps import EXPANSIONS
from onnxslim.ops.coupling import Axes
from onnxslim.ops.indexing import along, along_several
from onnxslim.ops.macs import dims_of, output_dims, product
from onnxslim.ops.matmul import couple_product, matmul_macs
from onnxslim.ops.normalization import over_last_axes
from onnxslim.ops.quantization import couple_scales
from onnxslim.ops.quantization_gradient import RULES as ROUNDING
from onnxslim.ops.spec import Dims, OpSpec, QuantRole, ShapeOf, like_first

__all__ = ["SPECS"]

_INTEGER = QuantRole(integer=True)


def _conv(node: ir.Node, shape_of: ShapeOf) -> int | None:
    outputs, filters = product(output_dims(node, shape_of)), dims_of(node, 1, shape_of)
    per_element = None if filters is None else product(filters[1:])
    return None if outputs is None or per_element is None else outputs * per_element


def _gemm(node: ir.Node, shape_of: ShapeOf) -> int | None:
    return matmul_macs(node, shape_of, inner=-2 if int_of(node, "transA", 0) else -1)


def _blocked(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """The packed weight's own shape says nothing; K and N are attributes."""
    data = dims_of(node, 0, shape_of)
    rows = None if data is None else product(data[:-1])
    return None if rows is None else rows * int_of(node, "K", 0) * int_of(node, "N", 0)


def _packed_bits(node: ir.Node) -> int:
    attribute = node.attributes.get("bits")
    bits = 4 if attribute is None or attribute.is_ref() else attribute.value
    return bits if bits in (2, 4, 8) else 8


def _attention(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """Projection to Q, K and V (``[in, 3 * hidden]``), then the two products with all keys; no past."""
    data, weight = dims_of(node, 0, shape_of), dims_of(node, 1, shape_of)
    sizes = product(data), product(weight)
    if None in sizes or data is None or weight is None or len(data) != 3 or len(weight) != 2:
        return None
    batch, steps, hidden = int(data[0] or 0), int(data[1] or 0), int(weight[1] or 0) // 3
    return batch * steps * (sizes[1] or 0) + 2 * batch * steps * steps * hidden


def _fused_product(node: ir.Node, axes: Axes) -> None:
    if not has(node, "transBatchA", "transBatchB"):
        couple_product(
            node, axes, transposed=(bool(int_of(node, "transA", 0)), bool(int_of(node, "transB", 0)))
        )


def _fused_product_dims(node: ir.Node, shape_of: ShapeOf) -> Dims | None:
    """Of two matrices, or of a stack of them with one matrix."""
    a, b = dims_of(node, 0, shape_of), dims_of(node, 1, shape_of)
    if a is None or b is None or len(a) < 2 or len(b) != 2 or has(node, "transBatchA", "transBatchB"):
        return None
    rows, columns = -1 if int_of(node, "transA", 0) else -2, -2 if int_of(node, "transB", 0) else -1
    return [*a[:-2], a[rows], b[columns]]


def _skip_norm(node: ir.Node, axes: Axes) -> None:
    """A sum, then statistics over its last axis; the sum itself may be an output."""
    over_last_axes(node, axes)


def _embedded(node: ir.Node, shape_of: ShapeOf) -> Iterable[tuple[int, int | str | None]]:
    """Words, segments and positions, each with a table."""
    for indices, table in ((0, 2), (1, 4), (8, 3)):
        yield from along(data=table, indices=indices)(node, shape_of)


def _op(op_type: str, **facts: Any) -> OpSpec:
    rules: dict[str, Any] = {"expand": EXPANSIONS.get(op_type), "vjp": ROUNDING.get(op_type)}
    return OpSpec(op_type=op_type, domain="com.microsoft", **rules, **facts)


SPECS = (
    _op("FusedConv", macs=_conv),
    _op("NhwcFusedConv", macs=_conv),
    _op("FusedGemm", macs=_gemm),
    _op("GemmFastGelu", macs=matmul_macs),
    _op("FusedMatMul", couple=_fused_product, dims=_fused_product_dims),
    _op("FusedMatMulActivation"),
    _op("TransposeMatMul"),
    _op("MatMulNBits", macs=_blocked, quant=QuantRole(integer=True, packed=_packed_bits)),
    _op("MatMulBnb4", macs=_blocked, quant=QuantRole(integer=True, packed=lambda node: 4)),
    _op("MatMulFpQ4"),
    _op("QGemm", macs=_gemm, quant=_INTEGER),
    _op("QLinearConv", quant=_INTEGER),
    _op("MatMulInteger16", macs=matmul_macs, quant=_INTEGER),
    _op("MatMulIntegerToFloat", macs=matmul_macs, quant=_INTEGER),
    _op("DynamicQuantizeMatMul", macs=matmul_macs, quant=_INTEGER),
    _op("DynamicQuantizeLSTM", quant=_INTEGER),
    _op("Attention", macs=_attention, couple=heads.fused_attention, dims=heads.fused_dims),
    _op("MultiHeadAttention", couple=heads.multi_head, dims=heads.attended_dims),
    _op("GroupQueryAttention", couple=heads.grouped, dims=heads.attended_dims),
    _op("RotaryEmbedding", couple=heads.rotary, dims=like_first),
    _op("SkipLayerNormalization", couple=_skip_norm, dims=like_first),
    _op("SkipSimplifiedLayerNormalization", couple=_skip_norm, dims=like_first),
    _op("QAttention", macs=_attention, quant=_INTEGER),
    *(_op(name, quant=_INTEGER) for name in (
        "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
        "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
    )),
    *(_op(name, elementwise=True, dims=like_first) for name in (
        "BiasGelu", "FastGelu", "Gelu", "QuickGelu",
    )),
    _op("BiasSplitGelu"),
    *(_op(name, elementwise=True, couple=couple_scales, dims=like_first)
      for name in ("QuantizeLinear", "DequantizeLinear")),
    *(_op(name) for name in (
        "BiasAdd", "BiasSoftmax", "CDist", "ComplexMul", "CropAndResize", "DecoderMaskedMultiHeadAttention",
        "ExpandDims",
        "GatedRelativePositionBias", "GridSample", "GroupNorm", "Inverse",
        "Irfft", "MaxpoolWithMask", "MoE", "MurmurHash3",
        "NGramRepeatBlock", "NhwcMaxPool", "PackedAttention", "PackedMultiHeadAttention", "Pad", "QMoE",
        "RelativePositionBias",
        "RemovePadding", "RestorePadding", "Rfft", "SampleOp", "SkipGroupNorm", "SparseAttention",
        "Tokenizer", "Trilu", "Unique", "UnfoldTensor", "DynamicTimeWarping",
    )),
    *(_op(name, indexes=_embedded) for name in ("EmbedLayerNormalization", "QEmbedLayerNormalization")),
    _op("GatherBlockQuantized", indexes=along("gather_axis")),
    _op("GatherND", indexes=along_several),
    *(_op(name, foldable=False) for name in ("BeamSearch", "GreedySearch", "WhisperBeamSearch")),
    *(_op(name, deterministic=False, foldable=False) for name in (
        "BiasDropout", "BitmaskDropout", "Sampling",
    )),
)  # fmt: skip
