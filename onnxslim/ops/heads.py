"""What attention does to axes: heads and the size of a head may both shrink.

Several heads of queries may share one of keys and values (grouped queries), so their axis is the product
``shared * share``.
"""

from __future__ import annotations

from math import sqrt

from onnxslim._ir import ir
from onnxslim.ops.attributes import has, int_of, ints_of
from onnxslim.ops.coupling import Axes, Layout, same_axes
from onnxslim.ops.spec import Dims, ShapeOf

__all__ = ["attended_dims", "attention", "fused_attention", "fused_dims", "grouped", "multi_head", "rotary"]


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def attention(node: ir.Node, axes: Axes) -> None:
    """Q, K and V ``[batch, heads, steps, size]`` or ``[batch, steps, heads * size]``, maybe with a past.

    Spec: https://onnx.ai/onnx/operators/onnx__Attention.html
    """
    query, key, value = node.inputs[:3]
    assert query is not None and key is not None and value is not None
    flat = len(axes.dims(query)) == 3
    heads = int_of(node, "q_num_heads", 0) if flat else axes.dims(query)[1]
    shared = int_of(node, "kv_num_heads", 0) if flat else axes.dims(key)[1]
    _attend(node, axes, heads, shared, mask=3, past=(4, 5))


def grouped(node: ir.Node, axes: Axes) -> None:
    """com.microsoft.GroupQueryAttention with separate Q, K and V, and without a rotation."""
    if _input(node, 1) is None or int_of(node, "do_rotary", 0):
        return
    _attend(node, axes, int_of(node, "num_heads", 0), int_of(node, "kv_num_heads", 0), mask=10, past=(3, 4))


def multi_head(node: ir.Node, axes: Axes) -> None:
    """com.microsoft.MultiHeadAttention with separate Q, K and V of rank 3, without a past.

    The bias is that of the three projections, one after the other.
    """
    if any(_input(node, index) is None for index in (1, 2)) or len(node.inputs) > 6:
        return
    if any(len(axes.dims(value)) != 3 for value in node.inputs[:3]):
        return
    heads = int_of(node, "num_heads", 0)
    _attend(node, axes, heads, heads, mask=5, past=None)
    bias = _input(node, 3)
    if bias is not None:
        parts = [axes.of(value, 2) for value in node.inputs[:3] if value is not None]
        if all(part.size is not None for part in parts):
            axes.equal(axes.of(bias, 0), axes.join(parts))


def _attend(
    node: ir.Node,
    axes: Axes,
    heads: int | str | None,
    shared: int | str | None,
    *,
    mask: int,
    past: tuple[int, int] | None,
) -> None:
    query, key, value = node.inputs[:3]
    assert query is not None and key is not None and value is not None
    if not isinstance(heads, int) or not isinstance(shared, int) or shared <= 0 or heads % shared:
        return
    flat = len(axes.dims(query)) == 3
    sizes = [axes.dims(each)[-1] for each in (query, value)]
    width, made = (size // count if isinstance(size, int) and flat else size for size, count in zip(
        sizes, (heads, shared), strict=True))  # fmt: skip
    if not isinstance(width, int) or not isinstance(made, int):
        return
    group, share, inner, outer = (axes.free(size) for size in (shared, heads // shared, width, made))
    output = node.outputs[0]
    roles = ((query, (group, share), inner), (key, (group,), inner), (value, (group,), outer))
    for each, count, size in (*roles, (output, (group, share), outer)):
        _tie(each, count, size, axes)
        axes.equal(axes.of(each, 0), axes.of(output, 0))
    axes.sums(1, -1)
    axes.freeze("scale", 1 / sqrt(width), inner)
    if past is None:
        axes.attribute("num_heads", group)
    elif flat:
        own = "q_num_heads" if has(node, "q_num_heads") else "num_heads"
        axes.attribute(own, axes.times((group, share)))
        axes.attribute("kv_num_heads", group)
    for place, (index, size) in enumerate(zip(past or (), (inner, outer), strict=False)):
        present = node.outputs[1 + place] if len(node.outputs) > 1 + place else None
        for kept in (_input(node, index), present):
            if kept is not None and kept.name:
                _tie(kept, (group,), size, axes)
    scores = node.outputs[3] if len(node.outputs) > 3 else None
    for score in (_input(node, mask), scores):
        if score is not None and score.name and len(axes.dims(score)) > 2 and axes.dims(score)[-3] != 1:
            axes.equal(axes.of(score, -3), axes.times((group, share)))


def attended_dims(node: ir.Node, shape_of: ShapeOf) -> Dims | None:
    """``[batch, queries, heads * size of V]`` for separate Q and V of rank 3."""
    query, value = _input(node, 0), _input(node, 2)
    dims = None if query is None else shape_of(query)
    last = None if value is None else shape_of(value)
    if dims is None or last is None or len(dims) != 3 or len(last) != 3:
        return None
    return [*dims[:2], dims[2] if has(node, "kv_num_heads") else last[2]]


def fused_dims(node: ir.Node, shape_of: ShapeOf) -> Dims | None:
    """``[batch, steps, size of V]`` of com.microsoft.Attention."""
    data, weight = _input(node, 0), _input(node, 1)
    dims = None if data is None else shape_of(data)
    width = None if weight is None else shape_of(weight)
    sizes = ints_of(node, "qkv_hidden_sizes")
    if dims is None or width is None or not isinstance(width[-1], int):
        return None
    return [*dims[:2], sizes[2] if sizes else width[-1] // 3]


def _tie(value: ir.Value, heads: tuple[Layout, ...], size: Layout, axes: Axes) -> None:
    if len(axes.dims(value)) == 3:
        axes.equal(axes.of(value, 2), axes.times((*heads, size)))
    else:
        axes.equal(axes.of(value, 1), axes.times(heads))
        axes.equal(axes.of(value, 3), size)


def fused_attention(node: ir.Node, axes: Axes) -> None:
    """com.microsoft.Attention: weight ``[in, q + k + v]``, each of which is ``heads * size``; no past."""
    data, weight, bias = _input(node, 0), _input(node, 1), _input(node, 2)
    heads, width = int_of(node, "num_heads", 0), axes.dims(weight)[-1] if weight is not None else None
    if data is None or weight is None or not isinstance(width, int) or heads <= 0 or len(node.inputs) > 4:
        return
    parts = ints_of(node, "qkv_hidden_sizes") or (width // 3,) * 3
    if sum(parts) != width or parts[0] != parts[1] or any(part % heads for part in parts):
        return
    group, inner, outer = (axes.free(size) for size in (heads, parts[0] // heads, parts[2] // heads))
    layouts = [axes.times((group, size)) for size in (inner, inner, outer)]
    made = axes.join(layouts)
    axes.equal(axes.channels(weight, 1), made)
    axes.equal(axes.of(data, 2), axes.sums(1, 0))
    if bias is not None:
        axes.equal(axes.of(bias, 0), made)
    axes.equal(axes.of(node.outputs[0], 2), layouts[2])
    axes.equal(axes.of(node.outputs[0], 0), axes.of(data, 0))
    axes.attribute("num_heads", group)
    axes.attribute("qkv_hidden_sizes", layouts)
    axes.freeze("scale", 1 / sqrt(parts[0] // heads), inner)
    axes.pin(inner, "its scores cannot be masked in the model")


def rotary(node: ir.Node, axes: Axes) -> None:
    """Pairs within a head are rotated: heads may go, the size of a head is fixed."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    dims, heads = axes.dims(data), int_of(node, "num_heads", 0)
    if len(dims) == 4:
        same_axes(node, axes, but=(2, 3))
    elif heads > 0 and isinstance(dims[-1], int) and dims[-1] % heads == 0:
        same_axes(node, axes, but=(1,))
        group = axes.free(heads)
        size = axes.fixed(dims[-1] // heads, "pairs of it are rotated")
        axes.equal(axes.of(output, 2), axes.times((group, size)))
        axes.attribute("num_heads", group)
