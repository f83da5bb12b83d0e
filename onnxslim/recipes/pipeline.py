"""The public pipeline: passes in, a verified model and its report out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxslim._ir import ir
from onnxslim.analysis.cost import summary
from onnxslim.model.hashing import is_external
from onnxslim.model.io import FileInfo, ModelLike, copy, file_info, load, save, to_proto
from onnxslim.model.protos import tensors_of
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.evidence import encoding_notes
from onnxslim.recipes.proof import Prover, worker_limits
from onnxslim.report.report import Report
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.environment import environment

__all__ = ["Pipeline", "Result", "path_of", "source_file"]


@dataclass(frozen=True)
class Result:
    """A rewritten model and the report of how it came about.

    ``unchanged`` is the file that the model came from, where nothing was done to it: its bytes are saved.
    """

    model: ir.Model
    report: Report
    unchanged: Path | None = None

    def to_proto(self) -> onnx.ModelProto:
        """The model as a protobuf message (under 2 GB)."""
        return to_proto(self.model)

    def save(
        self, path: str | os.PathLike[str], *, external_data: bool | None = None, force: bool = False
    ) -> FileInfo:
        """Write the model atomically; see :func:`onnxslim.save`."""
        inline = not any(is_external(tensor) for tensor in tensors_of(self.model))
        if self.unchanged is not None and inline and not external_data:
            return copy(self.unchanged, path, force=force)
        return save(self.model, path, external_data=external_data, force=force)


@dataclass(frozen=True)
class Pipeline:
    """Passes in order, verified once at the end, with the pass that breaks its promise taken back.

    Args:
        steps: passes, and :class:`~onnxslim.recipes.engine.Repeat` groups that run until nothing changes.
        verify: compare the outputs with the original's.
        feeds: what to verify on, ``{input name: array}`` each; None draws random inputs by type.
        verify_limit: models of more bytes are not verified; the report says so.
        seed: of the random inputs.
        never_grow: return the original when the result would be the larger file.
        explain: what else to note in the report, from the original and the result.

    Example:
        >>> import onnx.parser
        >>> from onnxslim.passes import RemoveDeadCode
        >>> proto = onnx.parser.parse_model(
        ...     '<ir_version: 8, opset_import: ["" : 17]>'
        ...     'g (float[2] x) => (float[2] y) { unused = Neg(x) y = Relu(x) }')
        >>> result = Pipeline((RemoveDeadCode(),)).run(proto)
        >>> [node.op_type for node in result.model.graph], result.report.verification["ok"]
        (['Relu'], True)
    """

    steps: Sequence[Step]
    verify: bool = True
    feeds: Iterable[Mapping[str, Any]] | None = None
    verify_limit: int = 10**9
    seed: int = 0
    never_grow: bool = False
    explain: Callable[[ir.Model, ir.Model], Iterable[str]] = lambda before, after: ()

    def run(self, source: ModelLike) -> Result:
        """Rewrite a copy of the model; the caller's object or file stays as it is.

        Raises:
            ModelError: the model is invalid.
            PassError: passes undo each other without end.
            VerificationError: the outputs differ although every pass was taken back.
        """
        model = load(source)
        with open_worker(**worker_limits(model)) as worker:
            prover = Prover(worker, self.feeds, self.verify_limit, self.seed)
            path = path_of(source)
            if path is not None:
                prover.file = (model, path)
            outcome = run_steps(model, self.steps, prover if self.verify else None)
        notes = prover.notes if self.verify else ["not verified: switched off"]
        before, after = summary(model, macs=False), summary(outcome.model, macs=False)
        notes = [*notes, *encoding_notes(outcome.model)]
        unchanged = not any(record.modified for record in outcome.applied)
        if self.never_grow and after["bytes"] > before["bytes"]:
            growth = after["bytes"] - before["bytes"]
            notes = [*notes, f"returned unchanged: the result has {growth} bytes more"]
            outcome.model, after, unchanged = model, before, True
        notes = [*notes, *self.explain(model, outcome.model)]
        return Result(
            outcome.model,
            Report(
                input=source_file(source, model),
                before=before,
                after=after,
                passes=tuple(outcome.applied),
                declined=tuple(outcome.declined),
                verification=prover.last.to_dict() if prover.last else None,
                environment=environment(),
                seeds={"verify": self.seed} if self.verify else {},
                notes=tuple(notes),
            ),
            path_of(source) if unchanged else None,
        )


def path_of(source: ModelLike) -> Path | None:
    """Where the model came from, if from a file."""
    return Path(source) if isinstance(source, (str, os.PathLike)) else None


def source_file(source: ModelLike, model: ir.Model) -> FileInfo | None:
    """The user's file, where the model came from one."""
    path = path_of(source)
    return None if path is None else file_info(path, model)
