"""Nodes picked by the user: by a glob of their names, or by operator."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from onnxslim._ir import ir

__all__ = ["Selection", "unpicked"]

_OPERATOR = "op:"


@dataclass(frozen=True, slots=True)
class Selection:
    """Comma-separated globs: ``/encoder/*`` is matched with names, ``op:Conv*`` with operators.

    A node without a name is known by its first output.

    Example:
        >>> picked = Selection.parse("op:Conv, /head/*")
        >>> node = ir.node("Conv", [ir.Value(name="x")], name="/body/0")
        >>> picked.has_node(node), picked.has_name("/head/1"), picked.has_name("/body/0")
        (True, True, False)
    """

    names: tuple[str, ...]
    operators: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Read the form above; an empty text picks nothing."""
        globs = [glob.strip() for glob in text.split(",") if glob.strip()]
        return cls(
            tuple(glob for glob in globs if not glob.startswith(_OPERATOR)),
            tuple(glob.removeprefix(_OPERATOR) for glob in globs if glob.startswith(_OPERATOR)),
        )

    def __bool__(self) -> bool:
        return bool(self.names or self.operators)

    def has_name(self, name: str) -> bool:
        """Whether a name is picked."""
        return any(fnmatchcase(name, glob) for glob in self.names)

    def has_operator(self, op_type: str) -> bool:
        """Whether an operator is picked."""
        return any(fnmatchcase(op_type, glob) for glob in self.operators)

    def has_node(self, node: ir.Node) -> bool:
        """Whether a node is picked, by its operator or its name."""
        name = node.name or (node.outputs[0].name if node.outputs else None) or ""
        return self.has_operator(node.op_type) or self.has_name(name)


def unpicked(node: ir.Node, include: str, exclude: str) -> str | None:
    """Why the user's choice leaves a node out, None where it does not.

    Example:
        >>> unpicked(ir.node("Conv", [], name="/body/0"), include="", exclude="op:Conv")
        'excluded by the user'
    """
    included = Selection.parse(include)
    if Selection.parse(exclude).has_node(node):
        return "excluded by the user"
    if included and not included.has_node(node):
        return "not among what the user included"
    return None
