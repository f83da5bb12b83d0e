"""Is an ``ir.Model`` still sound?  Run on models that callers built, and after passes."""

from __future__ import annotations

from pathlib import Path

from onnxslim._ir import ir
from onnxslim.errors import ModelError
from onnxslim.model.edit import subgraphs
from onnxslim.model.external import ExternalFiles
from onnxslim.model.hashing import is_external
from onnxslim.model.protos import tensors_of
from onnxslim.model.tensors import shown

__all__ = ["check", "check_files"]

_Names = dict[str, ir.Value]


def check(model: ir.Model) -> None:
    """Check what onnx_ir does not notice: names defined twice, uses before the definition, dangling outputs.

    Raises:
        ModelError: naming the value or node.
    """
    _check_graph(model.graph, ())
    for function in model.functions.values():
        _check_graph(function.graph, ())


def _check_graph(graph: ir.Graph, outer: tuple[_Names, ...]) -> None:
    names: _Names = {}
    levels = (names, *outer)
    for value in dict.fromkeys((*graph.inputs, *graph.initializers.values())):
        if not value.name:
            raise ModelError("a graph input or initializer has no name", where=_shown(graph))
        _define(value, names, graph)
        if value.is_initializer():
            _check_initializer(value)
    for node in graph:
        for value in filter(None, node.inputs):
            name = value.name or ""
            if next((level[name] for level in levels if name in level), None) is not value:
                where = f"node {shown(node.name or '')} ({node.op_type})"
                raise ModelError(f"{shown(name)} is used, but not defined before", where=where)
        for subgraph in subgraphs(node):
            _check_graph(subgraph, levels)
        for value in node.outputs:
            if value.name:
                _define(value, names, graph)
    for value in graph.outputs:
        if names.get(value.name or "") is not value:
            raise ModelError(f"nothing computes the output {shown(value.name)}", where=_shown(graph))


def _shown(graph: ir.Graph) -> str:
    return f"graph {shown(graph.name or '')}"


def _define(value: ir.Value, names: _Names, graph: ir.Graph) -> None:
    if names.setdefault(value.name or "", value) is not value:
        raise ModelError(f"{shown(value.name)} is defined twice", where=_shown(graph))


def _check_initializer(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is None:
        raise ModelError(f"the initializer {shown(value.name)} has no content")
    stale = (
        value.shape is not None and value.shape.is_static() and value.shape.numpy() != tensor.shape.numpy()
    )
    if stale or (value.dtype is not None and value.dtype != tensor.dtype):
        what = f"the initializer {shown(value.name)} is declared {value.dtype}{value.shape}"
        raise ModelError(what, where=f"its content is {tensor.dtype}{tensor.shape}")


def check_files(model: ir.Model) -> None:
    """Check the external data of a model that a caller built: each file inside its tensor's own ``base_dir``.

    Raises:
        ModelError: for a reference that leaves the folder or exceeds the file.
    """
    folders: dict[Path, ExternalFiles] = {}
    for tensor in tensors_of(model):
        if is_external(tensor) and tensor.raw is None:  # a mapped one was checked then
            folder = Path(tensor.base_dir or ".")
            files = folders.setdefault(folder, ExternalFiles(folder))
            where = f"tensor {shown(tensor.name)}"
            length = tensor.nbytes if tensor.length is None else tensor.length
            files.check_range(str(tensor.location), tensor.offset or 0, length, tensor.nbytes, where)
