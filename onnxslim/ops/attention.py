"""Attention and what belongs to it."""

from __future__ import annotations

from onnxslim._ir import ir
from onnxslim.ops import heads
from onnxslim.ops.attributes import int_of
from onnxslim.ops.macs import dims_of, product
from onnxslim.ops.sizes import total_bytes
from onnxslim.ops.spec import OpSpec, QuantRole, ShapeOf

__all__ = ["SPECS"]


def _attention(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """``Q K^T`` and its product with V, for every head.

    Shapes: Q ``[batch, heads, queries, size]`` or ``[batch, queries, heads * size]``; K and V likewise, with
    a past in front of them.  Spec: https://onnx.ai/onnx/operators/onnx__Attention.html
    """
    query, key, value = (dims_of(node, index, shape_of) for index in range(3))
    if product(query) is None or product(key) is None or product(value) is None or query is None:
        return None
    assert key is not None and value is not None
    past = dims_of(node, 4, shape_of)
    if len(node.inputs) > 4 and node.inputs[4] is not None and product(past) is None:
        return None
    keys = int(key[-2] or 0) + (int(past[-2] or 0) if past else 0)
    queries = int(query[-2] or 0)
    count = int_of(node, "q_num_heads", 0) if len(query) == 3 else int(query[1] or 0)
    shared = int_of(node, "kv_num_heads", 0) if len(key) == 3 else int(key[1] or 0)
    if count <= 0 or shared <= 0:
        return None
    key_size = int(query[-1] or 0) // (count if len(query) == 3 else 1)
    value_size = int(value[-1] or 0) // (shared if len(value) == 3 else 1)
    return int(query[0] or 0) * count * queries * keys * (key_size + value_size)


SPECS = (
    OpSpec(op_type="Attention", couple=heads.attention, macs=_attention, quant=QuantRole(inputs=(0, 1, 2))),
    OpSpec(op_type="FlexAttention", domain="ai.onnx.preview", macs=_attention),
    OpSpec(op_type="LinearAttention"),
    OpSpec(op_type="RotaryEmbedding", couple=heads.rotary, output_bytes=total_bytes),
)
