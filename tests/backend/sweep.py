"""Load, simplify, save and run a backend case, and judge the result by the original's outputs."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxslim
from onnxslim._ir import ir
from onnxslim.errors import OnnxSlimError
from onnxslim.model import edit
from onnxslim.model.io import load
from onnxslim.ops.registry import is_random, spec_of
from onnxslim.runtime.client import Worker
from tests.backend.cases import Case
from tests.models import bit_equal

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True)
class Verdict:
    """What became of a case: "equal", "not run" by onnxruntime itself, "random", "refused", "wrong"."""

    case: str
    kind: str
    detail: str = ""
    nodes: tuple[int, int] = (0, 0)
    declined: tuple[str, ...] = ()


def judge(case: Case, worker: Worker) -> Verdict:
    """Simplify without verification, so that nothing is repaired on the way, and compare every output."""
    try:
        expected = _outputs(case.model.SerializeToString(), case.feed, worker)
    except OnnxSlimError as error:
        return Verdict(case.name, "not run", error.what)
    try:
        result = onnxslim.simplify(case.model, verify=False)
    except OnnxSlimError as error:
        return Verdict(case.name, "refused", str(error))
    undone = [record for record in result.report.passes if record.rolled_back]
    if undone:
        return Verdict(case.name, "wrong", f"{undone[0].name} {undone[0].rolled_back}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simplified.onnx"
        result.save(path)
        onnx.load(path)
        try:
            actual = _outputs(str(path), case.feed, worker)
        except OnnxSlimError as error:
            return Verdict(case.name, "wrong", f"does not run: {error.what}")
    nodes = (len(case.model.graph.node), len(result.model.graph))
    declined = {entry.node: entry.reason for entry in result.report.declined}
    left = [
        node
        for node in result.model.graph
        if _could_fold(node) and (node.name or node.op_type) not in declined
    ]
    if left:
        return Verdict(
            case.name, "wrong", f"{left[0].op_type} is constant, and was neither folded nor declined"
        )
    original = load(case.model)
    if any(is_random(node, original) for node in original.graph.all_nodes()):
        return Verdict(case.name, "random", nodes=nodes)
    close = any(record.promise == "close" and record.modified for record in result.report.passes)
    for name, a, b in zip((o.name for o in case.model.graph.output), expected, actual, strict=True):
        if not (_close(a, b) if close else bit_equal(a, b)):
            return Verdict(case.name, "wrong", f"output {name} differs", nodes)
    return Verdict(case.name, "equal", "", nodes, tuple(declined.values()))


def _could_fold(node: ir.Node) -> bool:
    spec = spec_of(node)
    if spec is None or not spec.foldable or any(edit.subgraphs(node)):
        return False
    return all(value is None or edit.constant_value(value) is not None for value in node.inputs)


def _outputs(model: bytes | str, feed: dict[str, Any], worker: Worker) -> list[Any]:
    session = worker.load(model, optimize="none")
    with contextlib.closing(session):
        return session.run({key: value for key, value in feed.items() if value is not None})


def _close(a: Any, b: Any) -> bool:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= 1e-4 * np.abs(a).max(initial=0) + 1e-6))
