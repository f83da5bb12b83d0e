"""Operator sets, and calls of a model's own functions: no recursion, no avalanche when they unfold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx

from onnxslim.errors import ModelError, ResourceError
from onnxslim.model.limits import Limits
from onnxslim.model.tensors import RE_EXPORT, shown
from onnxslim.model.values import check_text

__all__ = [
    "Body",
    "FunctionId",
    "check_expansion",
    "check_node_count",
    "check_opsets",
    "function_id",
    "normal_domain",
]

FunctionId = tuple[str, str, str]


@dataclass
class Body:
    """What a graph or function holds: its own nodes, and the functions that these call."""

    nodes: int = 0
    calls: list[FunctionId] = field(default_factory=list)


def normal_domain(domain: str) -> str:
    """ONNX's own domain has two names."""
    return "" if domain == "ai.onnx" else domain


def function_id(function: onnx.FunctionProto) -> FunctionId:
    """What a node names to call the function."""
    return (normal_domain(function.domain), function.name, function.overload)


def check_opsets(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> None:
    """Refuse a model or function without operator sets, or with one in two versions."""
    versions: dict[str, int] = {}
    for entry in imports:
        check_text(where, entry.domain)
        domain = normal_domain(entry.domain)
        if not 0 < entry.version < 1 << 31:
            raise ModelError(
                f"domain {shown(domain)} has opset version {entry.version}", where=where, hint=RE_EXPORT
            )
        if versions.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                f"domain {shown(domain)} is imported in two versions", where=where, hint=RE_EXPORT
            )
    if not versions:
        hint = "add the opset_import that the model was exported with"
        raise ModelError("no operator set is imported", where=where, hint=hint)


def check_expansion(main: Body, functions: Mapping[FunctionId, Body], limits: Limits, where: str) -> None:
    """Refuse recursion, and more than ``limits.max_nodes`` nodes once all functions are inlined."""
    sizes: dict[FunctionId, int] = {}

    def size(body: Body, path: tuple[FunctionId, ...]) -> int:
        total = body.nodes
        for name in body.calls:
            if name in path:
                raise ModelError(f"the function {shown(name[1])} calls itself", where=where, hint="unroll it")
            if len(path) > limits.max_depth:
                raise ResourceError(
                    f"functions call each other deeper than {limits.max_depth}", where=where, hint=RE_EXPORT
                )
            if name not in sizes:
                sizes[name] = size(functions[name], (*path, name))
            total += sizes[name]
        return total

    for name, body in functions.items():
        if name not in sizes:
            sizes[name] = size(body, (name,))
    check_node_count(size(main, ()), limits, where)


def check_node_count(count: int, limits: Limits, where: str) -> None:
    """Refuse more than ``limits.max_nodes`` nodes."""
    if count > limits.max_nodes:
        what = f"the model has {count:,} nodes, the limit is {limits.max_nodes:,}"
        raise ResourceError(what, where=where, hint="load(limits=Limits(max_nodes=...)) raises the limit")
