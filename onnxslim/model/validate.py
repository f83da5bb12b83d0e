"""Structural checks of an untrusted model message, before anything is built from it.

Each name is defined once and visible where it is used, each tensor has the bytes that it declares, nesting
and sizes are bounded.  What onnxruntime runs and the specification allows passes, however odd: nodes out of
order (sorted after loading), outputs listed twice, names reused in branches, unknown operators.

Spec: https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from onnxslim.errors import ModelError, ResourceError
from onnxslim.model.calls import (
    Body,
    FunctionId,
    check_expansion,
    check_node_count,
    check_opsets,
    function_id,
    normal_domain,
)
from onnxslim.model.external import ExternalFiles
from onnxslim.model.limits import Limits
from onnxslim.model.tensors import RE_EXPORT, check_tensor, shown
from onnxslim.model.values import check_entries, check_name, check_text, check_type

__all__ = ["Findings", "validate"]

_KINDS: dict[str, int] = {  # the field that an attribute's type names
    "t": onnx.AttributeProto.TENSOR,
    "g": onnx.AttributeProto.GRAPH,
    "s": onnx.AttributeProto.STRING,
    "f": onnx.AttributeProto.FLOAT,
    "i": onnx.AttributeProto.INT,
    "sparse_tensor": onnx.AttributeProto.SPARSE_TENSOR,
    "tp": onnx.AttributeProto.TYPE_PROTO,
    "floats": onnx.AttributeProto.FLOATS,
    "ints": onnx.AttributeProto.INTS,
    "strings": onnx.AttributeProto.STRINGS,
    "tensors": onnx.AttributeProto.TENSORS,
    "graphs": onnx.AttributeProto.GRAPHS,
}


def validate(proto: onnx.ModelProto, limits: Limits, files: ExternalFiles, where: str) -> Findings:
    """Check a model, and return what its conversion must know.

    Small repairs are made in ``proto``: types that old exporters left out of attributes, lengths left out of
    external data, dimensions of -1.

    Raises:
        ModelError: naming what is wrong, and where.
        ResourceError: beyond ``limits``.
    """
    if not 0 < proto.ir_version < 1 << 31:
        raise ModelError("this is no ONNX model: it has no IR version", where=where, hint="check the file")
    if not proto.HasField("graph"):
        raise ModelError("the model has no graph", where=where, hint=RE_EXPORT)
    if proto.training_info:
        hint = "export it for inference; training information cannot be kept"
        raise ModelError("the model has training information", where=where, hint=hint)
    if proto.ir_version < 3 and not proto.opset_import:  # operator sets came with IR version 3
        proto.opset_import.add(version=1)
    check_opsets(proto.opset_import, where)
    check_text(where, proto.producer_name, proto.producer_version, proto.domain, proto.doc_string)
    check_entries(proto.metadata_props, where)
    functions = {function_id(function): Body() for function in proto.functions}
    if len(functions) != len(proto.functions):
        raise ModelError("two functions have the same domain, name and overload", where=where, hint=RE_EXPORT)
    domains = {normal_domain(entry.domain) for entry in proto.opset_import}
    checker = _Checker(limits, files, set(functions), domains)
    checker.graph(proto.graph, (), where)
    main = checker.body
    for function in proto.functions:
        checker.body = functions[function_id(function)]
        checker.function(function, where)
    check_expansion(main, functions, limits, where)
    return Findings(in_order=checker.in_order, opaque=checker.opaque)


@dataclass(frozen=True)
class Findings:
    """What is valid, but needs care.

    Attributes:
        in_order: the nodes stand in topological order.
        opaque: there are maps or sparse tensors, which onnx_ir cannot hold.
    """

    in_order: bool
    opaque: bool


@dataclass
class _Scope:
    """Names of one graph: all of them, and those visible at the node being checked."""

    every: set[str] = field(default_factory=set)
    visible: set[str] = field(default_factory=set)


_Scopes = tuple[_Scope, ...]


@dataclass
class _Checker:
    limits: Limits
    files: ExternalFiles
    functions: set[FunctionId]
    domains: set[str]
    body: Body = field(default_factory=Body)
    in_order: bool = True
    opaque: bool = False
    in_function: bool = False
    parts: int = 0

    def graph(self, graph: onnx.GraphProto, outer: _Scopes, where: str) -> None:
        if len(outer) >= self.limits.max_depth:
            raise ResourceError(
                f"subgraphs nest deeper than {self.limits.max_depth}", where=where, hint=RE_EXPORT
            )
        if graph.sparse_initializer:
            hint = "export the weights as dense tensors"
            raise ModelError("the model has sparse initializers", where=where, hint=hint)
        check_text(where, graph.name, graph.doc_string)
        check_entries(graph.metadata_props, where)
        for annotation in graph.quantization_annotation:
            check_text(where, annotation.tensor_name)
            check_entries(annotation.quant_parameter_tensor_names, where)
        self._count(where, graph.input, graph.output, graph.initializer, graph.value_info)
        scope = _Scope()
        for info in graph.input:
            self._define(info.name, scope, "graph input", where)
        initializers: set[str] = set()
        for tensor in graph.initializer:
            if tensor.name in initializers:
                raise ModelError(
                    f"two initializers have the name {shown(tensor.name)}", where=where, hint=RE_EXPORT
                )
            if tensor.name not in scope.every:  # else it is the default of an input
                self._define(tensor.name, scope, "initializer", where)
            initializers.add(tensor.name)
            self._tensor(tensor, where)
        for info in (*graph.input, *graph.value_info, *graph.output):
            check_name(info.name, "value", where)
            check_text(where, info.doc_string)
            check_entries(info.metadata_props, where)
            self.opaque |= check_type(info.type, f"{where}, value {shown(info.name)}")
        self._nodes(graph.node, scope, outer, where)
        self._check_outputs((info.name for info in graph.output), scope, where)

    def function(self, function: onnx.FunctionProto, where: str) -> None:
        where = f"{where}, function {shown(function.name)}"
        check_name(function.name, "function", where)
        check_text(where, function.domain, function.overload, function.doc_string, *function.attribute)
        check_entries(function.metadata_props, where)
        check_opsets(function.opset_import, where)
        self._count(where, function.input, function.output, function.value_info)
        scope = _Scope()
        for name in function.input:
            self._define(name, scope, "function input", where)
        for info in function.value_info:
            check_text(where, info.name, info.doc_string)
            check_entries(info.metadata_props, where)
            check_type(info.type, f"{where}, value {shown(info.name)}")
        self.in_function = True
        self._attributes(function.attribute_proto, (scope,), where)
        self._nodes(function.node, scope, (), where)
        self.in_function = False
        self._check_outputs(function.output, scope, where)

    def _nodes(self, nodes: Sequence[onnx.NodeProto], scope: _Scope, outer: _Scopes, where: str) -> None:
        self._count(where, nodes)
        self.body.nodes += len(nodes)
        check_node_count(self.body.nodes, self.limits, where)  # before the long way through them
        scope.visible = set(scope.every)  # inputs and initializers
        for node in nodes:
            for name in node.output:
                if not name:
                    continue
                if any(name in level.visible for level in outer):
                    what = f"{shown(name)} is defined in an outer graph already"
                    raise ModelError(what, where=_at(node, where), hint=RE_EXPORT)
                self._define(name, scope, "output", where, node)
        scopes = (*outer, scope)
        for node in nodes:
            self._node(node, scopes, where)
            scope.visible.update(node.output)

    def _node(self, node: onnx.NodeProto, scopes: _Scopes, where: str) -> None:
        where = _at(node, where)
        check_name(node.op_type, "operator", where)
        if node.name:
            check_name(node.name, "node", where)
        check_text(where, node.domain, node.overload, node.doc_string)
        check_entries(node.metadata_props, where)
        domain = normal_domain(node.domain)
        identifier = (domain, node.op_type, node.overload)
        if identifier in self.functions:
            self.body.calls.append(identifier)
        elif not domain and "" not in self.domains and not self.in_function:
            raise ModelError("the model does not import ONNX's own operator set", where=where, hint=RE_EXPORT)
        for name in node.input:
            if not name or name in scopes[-1].visible:
                continue
            if not any(name in level.every for level in scopes):
                raise ModelError(f"nothing defines the input {shown(name)}", where=where, hint=RE_EXPORT)
            if not any(name in level.visible for level in scopes):
                self.in_order = False
        self._attributes(node.attribute, scopes, where)

    def _attributes(self, attributes: Sequence[onnx.AttributeProto], scopes: _Scopes, where: str) -> None:
        self._count(where, attributes)
        names: set[str] = set()
        for attribute in attributes:
            check_name(attribute.name, "attribute", where)
            if attribute.name in names:
                raise ModelError(
                    f"the attribute {shown(attribute.name)} stands twice", where=where, hint=RE_EXPORT
                )
            names.add(attribute.name)
            check_text(where, attribute.doc_string, attribute.ref_attr_name)
            if attribute.ref_attr_name:
                if not self.in_function:
                    what = f"the attribute {shown(attribute.name)} refers to a function's, outside of any"
                    raise ModelError(what, where=where, hint=RE_EXPORT)
                continue
            self._attribute(attribute, scopes, where)

    def _attribute(self, attribute: onnx.AttributeProto, scopes: _Scopes, where: str) -> None:
        if not attribute.type:  # not a field yet in the first versions of the IR
            attribute.type = _kind_by_content(attribute)
        kind = attribute.type
        if kind == onnx.AttributeProto.TENSOR:
            self._tensor(attribute.t, where)
        elif kind == onnx.AttributeProto.GRAPH:
            self.graph(attribute.g, scopes, where)
        elif kind in (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS):
            self.opaque = True
        elif kind == onnx.AttributeProto.TYPE_PROTO:
            check_type(attribute.tp, where)
        for tensor in attribute.tensors:
            self._tensor(tensor, where)
        for graph in attribute.graphs:
            self.graph(graph, scopes, where)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            if sparse.HasField("values"):
                self._tensor(sparse.values, where)
                self._tensor(sparse.indices, where)

    def _tensor(self, tensor: onnx.TensorProto, where: str) -> None:
        check_tensor(tensor, where)
        check_text(where, tensor.name, tensor.doc_string)
        check_entries(tensor.metadata_props, where)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            self.files.check(tensor, where)

    def _define(
        self, name: str, scope: _Scope, what: str, where: str, node: onnx.NodeProto | None = None
    ) -> None:
        if name in scope.every:
            raise ModelError(f"{shown(name)} is defined twice", where=_at(node, where), hint=RE_EXPORT)
        check_name(name, what, where)
        scope.every.add(name)

    def _check_outputs(self, names: Iterable[str], scope: _Scope, where: str) -> None:
        for name in names:
            if name not in scope.every:
                raise ModelError(f"nothing computes the output {shown(name)}", where=where, hint=RE_EXPORT)

    def _count(self, where: str, *fields: Sequence[Any]) -> None:
        """Bound the number of parts before going through them: a file of empty messages unfolds hugely."""
        self.parts += sum(map(len, fields))
        if self.parts > 20 * self.limits.max_nodes:
            raise ResourceError("the model has too many parts", where=where, hint="see onnxslim.model.limits")


def _at(node: onnx.NodeProto | None, where: str) -> str:
    if node is None:
        return where
    name = node.name or next(iter(node.output), "")
    return f"{where}, node {shown(name)} ({shown(node.op_type)[1:-1]})"


def _kind_by_content(attribute: onnx.AttributeProto) -> Any:
    for name, kind in _KINDS.items():
        field = getattr(attribute, name)
        if (
            attribute.HasField(name)
            if name in ("t", "g", "s", "f", "i", "sparse_tensor", "tp")
            else len(field)
        ):
            return kind
    return onnx.AttributeProto.UNDEFINED
