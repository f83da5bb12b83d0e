"""Carry through what onnx_ir cannot hold: sparse tensors in attributes, and map types.

Both are hidden from onnx_ir before the model is built and restored when it becomes a message again; passes
see an attribute or a value type that they do not know.
"""

from __future__ import annotations

import base64

import onnx

from onnxslim._ir import ir
from onnxslim.model.protos import graphs_of, nodes_of

__all__ = ["Hidden", "hide", "restore", "stash"]

_KEY = "onnxslim.opaque"  # in the main graph's ``meta``, which survives cloning
_PREFIX = b"onnxslim:sparse:"
_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)

Hidden = dict[str, bytes]


def hide(proto: onnx.ModelProto) -> Hidden:
    """Take out of ``proto`` what onnx_ir refuses; return the types that went."""
    hidden: Hidden = {}
    for graph in graphs_of(proto):
        for info in (*graph.input, *graph.output, *graph.value_info):
            if _has_map(info.type):
                if graph is proto.graph:
                    hidden[info.name] = info.type.SerializeToString()
                info.ClearField("type")
    for node in nodes_of(proto):
        for attribute in node.attribute:
            if attribute.type in _SPARSE and not attribute.ref_attr_name:
                text = base64.b64encode(attribute.SerializeToString())
                name = attribute.name
                attribute.Clear()
                attribute.name, attribute.type = name, onnx.AttributeProto.STRING
                attribute.s = _PREFIX + text
    return hidden


def stash(model: ir.Model, hidden: Hidden | None) -> None:
    """Keep what ``hide`` returned with the model."""
    if hidden is not None:
        model.graph.meta[_KEY] = hidden


def restore(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Put back into the model's message what ``hide`` took out."""
    hidden = model.graph.meta.get(_KEY)
    if hidden is None:
        return
    for info in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if info.name in hidden and not info.HasField("type"):
            info.type.ParseFromString(hidden[info.name])
    for node in nodes_of(proto):
        for attribute in node.attribute:
            if attribute.s.startswith(_PREFIX):
                attribute.ParseFromString(base64.b64decode(attribute.s[len(_PREFIX) :]))


def _has_map(kind: onnx.TypeProto) -> bool:
    form = kind.WhichOneof("value")
    if form in ("sequence_type", "optional_type"):
        return _has_map(getattr(kind, form).elem_type)
    return bool(form == "map_type")
