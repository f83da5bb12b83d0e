"""Compute constant subexpressions in the worker: many nodes as one model, and the one to blame on failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.errors import OnnxSlimError
from onnxslim.model import edit
from onnxslim.runtime.client import open_worker

__all__ = ["EvaluationError", "evaluate"]

Array = npt.NDArray[Any]

_SECONDS = 30.0  # a constant subexpression that takes longer is not worth folding


class EvaluationError(Exception):
    """``node`` cannot be evaluated: the runtime refused it, died of it, or ran out of time or memory."""

    def __init__(self, node: ir.Node, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        self.reason = reason


def evaluate(
    nodes: Sequence[ir.Node],
    known: Mapping[ir.Value, Array],
    wanted: Sequence[ir.Value],
    *,
    opset_imports: Mapping[str, int],
) -> dict[ir.Value, Array]:
    """The contents of ``wanted``, outputs of ``nodes``, with the optimizations of onnxruntime off.

    Args:
        nodes: in topological order, none with subgraphs or attributes that refer to a function's.
        known: the content of every value that they read and that none of them produces.

    Raises:
        EvaluationError: naming the first node that fails, found by bisection.
    """
    with open_worker():
        try:
            return _run(nodes, known, wanted, opset_imports)
        except OnnxSlimError as error:
            failure = error
        works, fails = 0, len(nodes)  # of the prefixes of this length
        while fails - works > 1:
            middle = (works + fails) // 2
            try:
                _run(nodes[:middle], known, _ends(nodes[:middle]), opset_imports)
                works = middle
            except OnnxSlimError as error:
                fails, failure = middle, error
        raise EvaluationError(nodes[fails - 1], failure.what) from failure


def _ends(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """The outputs of ``nodes`` that none of them reads."""
    read = {value for node in nodes for value in node.inputs}
    return [value for node in nodes for value in node.outputs if value.name and value not in read]


def _run(
    nodes: Sequence[ir.Node],
    known: Mapping[ir.Value, Array],
    wanted: Sequence[ir.Value],
    opset_imports: Mapping[str, int],
) -> dict[ir.Value, Array]:
    model = _as_model(nodes, known, wanted, opset_imports)
    with open_worker() as worker:
        session = worker.load(model, optimize="none")
        try:
            return dict(zip(wanted, map(np.asarray, session.run({}, timeout=_SECONDS)), strict=True))
        finally:
            session.close()


def _as_model(
    nodes: Sequence[ir.Node],
    known: Mapping[ir.Value, Array],
    wanted: Sequence[ir.Value],
    opset_imports: Mapping[str, int],
) -> ir.Model:
    """A model without inputs; values are numbered, since names of different scopes may clash."""
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(opset_imports), name="constants")
    copies: dict[ir.Value, ir.Value] = {}

    def copy_of(value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        if value not in copies:
            copies[value] = edit.add_initializer(graph, known[value], f"k{len(copies)}")
        return copies[value]

    for node in nodes:
        inputs = [copy_of(value) for value in node.inputs]
        outputs = [
            ir.Value(name=f"v{len(copies) + i}" if value.name else "", type=value.type)
            for i, value in enumerate(node.outputs)
        ]
        copies.update(zip(node.outputs, outputs, strict=True))
        graph.append(
            ir.Node(
                node.domain,
                node.op_type,
                inputs,
                node.attributes.values(),
                overload=node.overload,
                outputs=outputs,
            )
        )
    graph.outputs.extend(copies[value] for value in wanted)
    return ir.Model(graph, ir_version=_IR_VERSION)


_IR_VERSION = 8  # new enough for every tensor type in use, old enough for every supported onnxruntime
