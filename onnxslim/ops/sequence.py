"""Sequences and optionals: values that are no tensors, so nothing is folded."""

from __future__ import annotations

from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS"]

SPECS = tuple(
    OpSpec(op_type=name, foldable=False)
    for name in (
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SplitToSequence",
    )
)
