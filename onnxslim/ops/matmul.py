"""Matrix products."""

from __future__ import annotations

from onnxslim._ir import ir
from onnxslim.ops.attributes import int_of, text_of
from onnxslim.ops.linear import gemm_linear, matmul_linear
from onnxslim.ops.macs import dims_of, output_dims, product
from onnxslim.ops.spec import OpSpec, QuantRole, ShapeOf

__all__ = ["SPECS", "matmul_macs"]


def matmul_macs(node: ir.Node, shape_of: ShapeOf, *, inner: int = -1) -> int | None:
    """Every output element adds up as many products as input 0 has columns (axis ``inner``)."""
    outputs, first = product(output_dims(node, shape_of)), dims_of(node, 0, shape_of)
    depth = product(first[inner:][:1]) if first else None
    return None if outputs is None or depth is None else outputs * depth


def _gemm(node: ir.Node, shape_of: ShapeOf) -> int | None:
    return matmul_macs(node, shape_of, inner=-2 if int_of(node, "transA", 0) else -1)


def _gemm_channels(node: ir.Node) -> int:
    return 0 if int_of(node, "transB", 0) else 1


def _einsum(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """The size of the space of all indices, for the products of one pass over it.

    Spec: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    equation = text_of(node, "equation", "").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if len(terms) != len(node.inputs):
        return None
    sizes: dict[str, int] = {}
    ellipsis = 1
    for index, term in enumerate(terms):
        dims = dims_of(node, index, shape_of)
        if dims is None or product(dims) is None:
            return None
        before, dots, after = term.partition("...")
        named = [*zip(before, dims, strict=False), *zip(after, dims[len(dims) - len(after) :], strict=False)]
        if len(before) + len(after) > len(dims) or (not dots and len(before) != len(dims)):
            return None
        for letter, dim in named:
            sizes[letter] = max(sizes.get(letter, 1), int(dim or 0))
        ellipsis = max(ellipsis, product(dims[len(before) : len(dims) - len(after)]) or 0 if dots else 1)
    total = product(sizes.values()) or 0
    return total * ellipsis * max(1, len(terms) - 1)


SPECS = (
    OpSpec(op_type="MatMul", macs=matmul_macs, linear=matmul_linear, quant=QuantRole(
        inputs=(0, 1), weight=1, weight_axis=lambda node: -1, kernel="QLinearMatMul")),
    OpSpec(op_type="Gemm", macs=_gemm, linear=gemm_linear, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=_gemm_channels, bias=2, kernel="QGemm")),
    OpSpec(op_type="MatMulInteger", macs=matmul_macs, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: -1, integer=True)),
    OpSpec(op_type="QLinearMatMul", macs=matmul_macs, quant=QuantRole(
        inputs=(0,), weight=3, weight_axis=lambda node: -1, integer=True)),
    OpSpec(op_type="Einsum", macs=_einsum, quant=QuantRole(inputs=(0, 1))),
    OpSpec(op_type="Det"),
)  # fmt: skip
