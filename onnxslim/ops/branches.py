"""Which branch of a conditional runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir

__all__ = ["taken_branch"]


def taken_branch(node: ir.Node, condition: npt.NDArray[Any] | None) -> ir.Graph | None:
    """The branch of an If that runs under ``condition``; None for other nodes or an unknown condition.

    Spec: https://onnx.ai/onnx/operators/onnx__If.html (the condition has exactly one element)
    """
    if node.domain != "" or node.op_type != "If":
        return None
    if condition is None or condition.size != 1 or condition.dtype != np.bool_:
        return None
    branch = node.attributes.get("then_branch" if condition.item() else "else_branch")
    return None if branch is None or branch.is_ref() else branch.as_graph()
