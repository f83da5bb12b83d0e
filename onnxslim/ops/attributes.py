"""Attributes of a node with their defaults, and the version of its operator set."""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim._ir import ir

__all__ = ["float_of", "has", "int_of", "ints_of", "opset_of", "text_of"]


def has(node: ir.Node, *names: str) -> bool:
    """Whether the node has one of these attributes."""
    return any(name in node.attributes for name in names)


def int_of(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute; a ``TypeError`` for a reference to a function's attribute or another type."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def ints_of(node: ir.Node, name: str) -> Sequence[int] | None:
    """An attribute that is a list of integers, None where it is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def float_of(node: ir.Node, name: str, default: float) -> float:
    """A float attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def text_of(node: ir.Node, name: str, default: str) -> str:
    """A text attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def opset_of(node: ir.Node) -> int | None:
    """The version of the operator set that the node is written in, None where nothing says so."""
    if node.version is not None:
        return node.version
    scope = node.graph
    while scope is not None:
        version = scope.opset_imports.get(node.domain)
        if version is not None:
            return version
        owner = getattr(scope, "parent_node", None)
        scope = None if owner is None else owner.graph
    return None
