"""Control flow: operators that run graphs held in their attributes."""

from __future__ import annotations

from typing import Literal

from onnxslim._ir import ir
from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS", "control_flow"]

# with the operator set since which a body may have further outputs: before, the branches of If had to agree
# in their shapes, and Scan ran over a batch
_BODIES: dict[str, tuple[Literal["branches", "loop", "scan"], int]] = {
    "If": ("branches", 11),
    "Loop": ("loop", 1),
    "Scan": ("scan", 9),
}

# what is inside decides, so nothing is folded as a whole
SPECS = tuple(OpSpec(op_type=name, foldable=False) for name in (*_BODIES, "SequenceMap"))


def control_flow(node: ir.Node, opset: int) -> Literal["branches", "loop", "scan"] | None:
    """How a node runs its bodies; None where a further output of a body has no place in the node's outputs.

    A branch's outputs are the node's; a further output of the body of a loop or a scan is stacked over the
    iterations.

    Spec: https://onnx.ai/onnx/operators/onnx__Loop.html, onnx__Scan.html, onnx__If.html
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    kind, since = _BODIES.get(node.op_type, (None, 0))
    return kind if opset >= since else None
