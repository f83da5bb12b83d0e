"""Matrix products."""

from __future__ import annotations

from onnxslim._ir import ir
from onnxslim.ops import matmul_gradient
from onnxslim.ops.attributes import int_of, text_of
from onnxslim.ops.coupling import Axes, Layout, broadcast
from onnxslim.ops.linear import gemm_linear, matmul_linear
from onnxslim.ops.macs import dims_of, output_dims, product
from onnxslim.ops.spec import OpSpec, QuantRole, ShapeOf

__all__ = ["SPECS", "couple_product", "matmul_macs"]


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


def couple_product(
    node: ir.Node,
    axes: Axes,
    *,
    transposed: tuple[bool, bool] = (False, False),
    first: tuple[int, int] = (0, 1),
) -> None:
    """``[..., M, K] @ [..., K, N]``, with numpy's rules for vectors and broadcasting.

    Args:
        transposed: whether the last two axes of the one and the other are exchanged.
        first: indices of the two inputs.
    """
    a, b = (node.inputs[index] for index in first)
    assert a is not None and b is not None
    output = node.outputs[0]
    vectors = [len(axes.dims(value)) == 1 for value in (a, b)]
    rows, depth = (-1, -2) if transposed[0] and not vectors[0] else (-2, -1)
    inner, columns = (-1, -2) if transposed[1] and not vectors[1] else (-2, -1)
    inner = -1 if vectors[1] else inner
    stored = [axes.is_weight(value) for value in (a, b)]
    axes.equal(axes.of(a, depth), axes.of(b, inner))
    axes.sums(*((first[0], depth) if stored[0] and not stored[1] else (first[1], inner)))
    if not vectors[0]:
        made = axes.channels(a, rows) if stored[0] else axes.of(a, rows)
        axes.equal(made, axes.of(output, -1 if vectors[1] else -2))
    if not vectors[1]:
        made = axes.channels(b, columns) if stored[1] else axes.of(b, columns)
        axes.equal(made, axes.of(output, -1))
    if not any(vectors):
        broadcast((a, b), output, axes, skip=2)
    for value, other in ((a, vectors[1]), (b, vectors[0])):
        for axis in range(len(axes.dims(value)) - 2 if other else 0):  # times a vector: nothing is broadcast
            axes.equal(axes.of(value, axis), axes.of(output, axis))


def _couple_gemm(node: ir.Node, axes: Axes) -> None:
    couple_product(node, axes, transposed=(int_of(node, "transA", 0) == 1, int_of(node, "transB", 0) == 1))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        broadcast([bias], node.outputs[0], axes)


def _couple_einsum(node: ir.Node, axes: Axes) -> None:
    """One layout for each letter; letters that the result lacks are summed over.

    Spec: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    equation = text_of(node, "equation", "").replace(" ", "")
    if "->" not in equation or "." in equation:
        return
    terms, result = equation.split("->")[0].split(","), equation.split("->")[1]
    values = [value for value in node.inputs if value is not None]
    shapes = [axes.dims(value) for value in values]
    if [len(term) for term in terms] != [len(shape) for shape in shapes]:
        return
    seen: dict[str, Layout] = {letter: axes.of(node.outputs[0], place) for place, letter in enumerate(result)}
    sizes: dict[str, set[object]] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            sizes.setdefault(letter, set()).add(size)
    for index, (term, value) in enumerate(zip(terms, values, strict=True)):
        for place, letter in enumerate(term):
            if len(sizes[letter]) > 1 or term.count(letter) > 1:
                continue  # broadcast, or a diagonal: pinned
            own = axes.of(value, place)
            if axes.is_weight(value) and letter in result:
                axes.channels(value, place)
            axes.equal(seen.setdefault(letter, own), own)
            last = max(i for i, other in enumerate(terms) if letter in other)
            stored = [i for i, other in enumerate(terms) if letter in other and axes.is_weight(values[i])]
            if letter not in result and index == (stored[0] if stored else last):
                axes.sums(index, place)


SPECS = (
    OpSpec(op_type="MatMul", vjp=matmul_gradient.RULES["MatMul"],
           linear=matmul_linear, couple=couple_product, macs=matmul_macs, quant=QuantRole(
        inputs=(0, 1), weight=1, weight_axis=lambda node: -1, kernel="QLinearMatMul")),
    OpSpec(op_type="Gemm", vjp=matmul_gradient.RULES["Gemm"],
           linear=gemm_linear, couple=_couple_gemm, macs=_gemm, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=_gemm_channels, bias=2, kernel="QGemm")),
    OpSpec(op_type="MatMulInteger", macs=matmul_macs, quant=QuantRole(
        inputs=(0,), weight=1, weight_axis=lambda node: -1, integer=True)),
    OpSpec(op_type="QLinearMatMul", macs=matmul_macs, quant=QuantRole(
        inputs=(0,), weight=3, weight_axis=lambda node: -1, integer=True)),
    OpSpec(op_type="Einsum", vjp=matmul_gradient.RULES["Einsum"],
           couple=_couple_einsum, macs=_einsum, quant=QuantRole(inputs=(0, 1))),
    OpSpec(op_type="Det"),
)  # fmt: skip
