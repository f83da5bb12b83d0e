"""Control flow: what is inside decides, so nothing is folded as a whole."""

from __future__ import annotations

from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS"]

SPECS = tuple(OpSpec(op_type=name, foldable=False) for name in ("If", "Loop", "Scan", "SequenceMap"))
