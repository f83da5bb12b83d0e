"""From a checked message to an ``ir.Model`` and back; the traps of the conversion are dealt with here."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxslim._ir import ir
from onnxslim.errors import ModelError
from onnxslim.model.edit import know_names, scopes
from onnxslim.model.hashing import is_external
from onnxslim.model.opaque import hide, restore, stash
from onnxslim.model.order import sort_model
from onnxslim.model.protos import graphs_of, tensors_of
from onnxslim.model.tensors import shown
from onnxslim.model.validate import Findings

__all__ = ["build", "serialized"]


def build(proto: onnx.ModelProto, findings: Findings, folder: Path | None, where: str) -> ir.Model:
    """Turn a validated message, which is used up, into a model whose nodes are in topological order.

    Models before IR version 4 had to list every initializer among the graph inputs, where nobody could
    override it; they become version 4, where such an input is a default, and drop these inputs.

    Raises:
        ModelError: for a cycle, or something that onnx_ir cannot represent.
    """
    hidden = hide(proto) if findings.opaque else None
    try:
        model: ir.Model = ir.from_proto(proto)
    except Exception as error:
        what = f"the model cannot be represented: {_innermost(error)}"
        raise ModelError(what, where=where, hint="please report it with the model") from error
    stash(model, hidden)
    for tensor in tensors_of(model):
        if is_external(tensor) and folder is not None:
            tensor.base_dir = folder
    for scope in scopes(model):
        if isinstance(scope, ir.Graph):
            for value in scope.initializers.values():
                _align(value, where)
    if not findings.in_order:
        sort_model(model, where)
    if model.ir_version < 4:
        model.ir_version = 4
        for value in list(model.graph.inputs):
            if value.is_initializer():
                model.graph.inputs.remove(value)
    know_names(model)
    return model


def _align(value: ir.Value, where: str) -> None:
    """A declaration beside an initializer gives way to the tensor, unless it is the interface of an input."""
    tensor = value.const_value
    if tensor is None:
        return
    dims = tensor.shape.numpy()
    if value.is_graph_input():
        declared = value.shape
        fits = declared is None or (
            len(declared) == len(dims)
            and all(a == b for a, b in zip(declared, dims, strict=True) if isinstance(a, int))
        )
        if not fits or value.dtype not in (None, tensor.dtype):
            what = f"the input {shown(value.name)} and its initializer differ in type or shape"
            raise ModelError(what, where=where, hint="export the model again")
    else:
        value.shape, value.type = ir.Shape(dims), ir.TensorType(tensor.dtype)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def serialized(model: ir.Model) -> onnx.ModelProto:
    """The message for a model; external tensors stay references.

    onnx_ir writes a value_info for every typed initializer, which says nothing that the tensor does not say:
    it is taken out again, so that a file does not grow by a round trip.
    """
    proto = ir.to_proto(model)
    proto.graph.SetInParent()  # an empty graph is one, too
    for graph in graphs_of(proto):
        _strip_initializer_info(graph)
    restore(proto, model)
    return proto


def _strip_initializer_info(graph: onnx.GraphProto) -> None:
    names = {tensor.name for tensor in graph.initializer}
    stop = len(graph.value_info)
    while stop:  # from the back, in runs: deleting one by one would be quadratic
        start = stop
        while start and _redundant(graph.value_info[start - 1], names):
            start -= 1
        if start < stop:
            del graph.value_info[start:stop]
        stop = max(start - 1, 0)


def _redundant(info: onnx.ValueInfoProto, initializers: set[str]) -> bool:
    return info.name in initializers and not info.metadata_props and not info.doc_string
