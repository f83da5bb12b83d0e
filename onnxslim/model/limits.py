"""What a model file may ask of us before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on an untrusted model; beyond them loading raises ``ResourceError``.

    Attributes:
        max_proto_bytes: size of the model file itself, without external data (protobuf's own limit is 2 GiB).
        max_nodes: nodes in all graphs together, with functions inlined.
        max_depth: nesting of subgraphs (If, Loop, Scan) and of local function calls.

    Example:
        >>> Limits(max_nodes=1000).max_depth
        32
    """

    max_proto_bytes: int = 2**31 - 1
    max_nodes: int = 100_000
    max_depth: int = 32
