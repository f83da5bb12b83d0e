"""``distill``: the student learns, on data without labels, to say what its teacher says.

With ``test`` the test data are a source of their own, and a metric that is a function brings its own;
otherwise ``data`` is split 70/30 by the seed.  Of the rest most is trained on, and what is left decides which
weights are kept.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.cost import summary
from onnxslim.calibration.data import DataLike, open_feeds
from onnxslim.distillation.optimizer import OptimizerName
from onnxslim.distillation.trainer import Settings
from onnxslim.errors import OptionError
from onnxslim.measure.metrics import is_function, resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import ModelLike, load, save
from onnxslim.model.tensors import shown
from onnxslim.passes.base import Promise
from onnxslim.recipes.budget import parse_duration
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.learning import HELD_OUT_SHARE, TRAINING_WALL_S, Asked, cores, learn
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.parts import Parts, open_data, split_data
from onnxslim.recipes.pipeline import Result, path_of, source_file
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.search import Progress
from onnxslim.report.report import Report
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.environment import environment
from onnxslim.runtime.providers import resolve as resolve_providers

__all__ = ["distill"]

_CHECKED = 32  # feeds on which the outputs are compared


@dataclass(frozen=True)
class _Data:
    data: DataLike
    held_out: DataLike | None
    test: DataLike | None
    metric: str | None
    output: str | None
    options: Mapping[str, Any]

    def parts(self, worker: Worker, model: ir.Model, seed: int) -> Parts:
        """To train on, to choose by, to score by."""
        opened = open_data(worker, model, self.data, seed=seed, **self.options)
        own_test = is_function(self.metric)
        if self.held_out is None:
            share = 1 - HELD_OUT_SHARE
            return split_data(opened, self.test, model, seed=seed, own_test=own_test, fitted=share)
        tested = None if self.test is None else open_feeds(self.test, model, seed=seed)
        if tested is None and not own_test:
            opened, tested = opened.split(0.7, seed)
        return Parts(opened, open_feeds(self.held_out, model, seed=seed), tested, opened.notes)


def distill(
    student: ModelLike,
    teacher: ModelLike,
    data: DataLike,
    *,
    time: str | float = "5min",
    steps: int | None = None,
    batch_size: int = 32,
    rate: float | None = None,
    optimizer: OptimizerName = "adam",
    augment: bool = True,
    labels: bool | float = False,
    loss: ModelLike | None = None,
    block_wise: bool = False,
    max_memory: int | None = None,
    held_out: DataLike | None = None,
    test: DataLike | None = None,
    metric: str | None = None,
    metric_output: str | None = None,
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
    threads: int | None = None,
    providers: Sequence[str] = ("cpu",),
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress = lambda message: None,
) -> Result:
    """Train a compressed model to say what the original says, without labels and without its framework.

    Args:
        student: path, ``ModelProto`` or ``ir.Model``; never changed.  The result has the same operators and
            types of weights, with other contents.
        teacher: the original, of the same inputs.
        data: inputs to learn on; labels are not needed.
        time: of the training: ``"5min"``; the number of steps follows from the time of one.
        steps: instead of ``time``: how many (of each block, with ``block_wise``); two runs give equal files.
        batch_size: samples of a step, where the models take several at once.
        rate: of learning; default the best of a few, after a short trial of each.
        optimizer: ``adam`` or ``sgd``.
        augment: shift what looks like images, mix samples of floats.
        labels: learn the ``__labels__`` of the data too; a number, 1 for True, is their weight.
        loss: instead of ours: a graph whose inputs are named ``student.OUTPUT`` and ``teacher.OUTPUT`` (and
            ``labels``, int64), and whose only output is one float.
        block_wise: train one block after the other, on the teacher's value behind it, in the memory of one.
        max_memory: bytes that the tensors of a step may need at once, weights and gradients among them; a
            batch is taken apart to stay below, and the gradients of its parts are added up.  Default half of
            what a process may take, a quarter where inputs have several shapes.
        held_out: inputs that decide which weights are kept; default a part of ``data``.
        threads: of onnxruntime; default the cores that there are.
        checkpoint: a file that keeps what was done so far.
        resume: go on with what ``checkpoint`` holds.

    The other arguments are those of :func:`onnxslim.compress`.

    Raises:
        OptionError: teacher and student do not belong together; the checkpoint belongs to another run.
        CalibrationError: the data do not fit the models.
        ModelError: nothing in the student can be trained.

    Example:
        >>> import numpy as np, onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[n,2] x) => (float[n,1] y) <float[2,1] w = {%s}> { y = MatMul(x, w) }'''
        >>> teacher, student = (onnx.parser.parse_model(text % weights) for weights in ("1, 2", "0.5, 0"))
        >>> x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
        >>> found = distill(student, teacher, {"x": x}, steps=300, rate=0.03)
        >>> found.model.graph.initializers["w"].const_value.numpy().round(1).tolist()
        [[1.0], [2.0]]
    """
    if steps is not None and steps < 1:
        raise OptionError(f"the number of steps must be at least 1, not {steps}")
    if batch_size < 1:
        raise OptionError(f"the batch size must be at least 1, not {batch_size}")
    if rate is not None and not 0 < rate < 1:
        raise OptionError(f"the learning rate must lie between 0 and 1, not {rate}")
    if not 0 <= labels < float("inf"):
        raise OptionError(f"labels cannot weigh {labels}", hint="give a number above 0")
    if loss is not None and max_memory is not None:
        raise OptionError(
            "a loss of your own takes whole batches: it may be no mean over samples",
            hint="leave --max-memory out, and lower --batch-size instead",
        )
    if resume and checkpoint is None:
        raise OptionError("there is no checkpoint to resume", hint="name its file")
    request = Asked(
        Settings(steps, parse_duration(time), optimizer, rate, seed, float(labels)),
        batch_size,
        augment,
        float(labels),
        threads or cores(),
        resolve_providers(providers),
        None if checkpoint is None else Path(checkpoint),
        resume,
        block_wise,
        max_memory,
        None if loss is None else load(loss),
    )
    options = {"samples": samples, "batch": batch, "images": images}
    given = _Data(data, held_out, test, metric, metric_output, options)
    return _distill(student, teacher, given, request, progress)


def _distill(
    source: ModelLike, teacher_source: ModelLike, given: _Data, request: Asked, progress: Progress
) -> Result:
    original, teacher = load(source), load(teacher_source)
    _check_pair(original, teacher)
    seed = request.settings.seed
    scratch = tempfile.TemporaryDirectory(prefix="onnxslim-")
    with open_worker(wall_s=TRAINING_WALL_S) as worker, scratch as name:
        folder = Path(name)
        file = source_file(source, original) or save(original, folder / "student.onnx")
        reference = source_file(teacher_source, teacher) or save(teacher, folder / "teacher.onnx")
        progress("simplifying")
        prover = Prover(worker, seed=seed)
        base = run_steps(original, simplify_steps(joining=False), prover)
        other = run_steps(teacher, simplify_steps(), Prover(worker, seed=seed)).model
        parts = given.parts(worker, original, seed)
        metric = resolve(given.metric or "agreement", original=teacher, feeds=parts.test, output=given.output)
        learned = learn(worker, base.model, other, parts, request, progress)
        model = learned.model
        result = save(model, folder / "result.onnx") if model is not None else file
        progress("scoring the result")
        top, start, end = (metric.score(path) for path in (reference.path, file.path, result.path))
        feeds = list(parts.held_out.spread(_CHECKED))
        first = verify(teacher, original, feeds, promise=Promise.LOSSY, worker=worker)
        last = first if model is None else verify(teacher, model, feeds, promise=Promise.LOSSY, worker=worker)
        report = Report(
            input=file,
            before=summary(original),
            after=summary(original if model is None else model),
            passes=tuple(base.applied),
            declined=(*base.declined, *learned.declined),
            verification=last.to_dict(),
            metric={"name": metric.name, "before": start.value, "after": end.value, "n": end.n}
            | {"interval": end.interval, "teacher": top.value},
            distillation={**learned.told, "outputs": first.to_dict()["outputs"], "teacher": reference.path},
            environment=environment(),
            seeds={"data": seed},
            notes=(*prover.notes, *parts.notes, *learned.notes),
        )
        if model is None:
            return Result(original, report, path_of(source))
    return Result(model, report)


def _check_pair(student: ir.Model, teacher: ir.Model) -> None:
    """Whether one can learn from the other.

    Raises:
        OptionError: their inputs differ, or they have no output in common.
    """

    def inputs(model: ir.Model) -> dict[str | None, ir.DataType | None]:
        return {v.name: v.dtype for v in model.graph.inputs if v.name not in model.graph.initializers}

    own, other = inputs(student), inputs(teacher)
    if own != other:
        names = sorted(str(name) for name, _ in {*own.items()} ^ {*other.items()})
        raise OptionError(
            "the student and its teacher take different inputs",
            where=f"input {names[0]}",
            hint="give the model that the student was made of",
        )
    common = {value.name for value in teacher.graph.outputs}
    outputs = [value for value in student.graph.outputs if value.name in common]
    if not any(_can_be_compared(value) for value in outputs):
        raise OptionError(
            "the student and its teacher have no output of float32 in common",
            where=", ".join(f"output {shown(value.name)}, {value.dtype}" for value in outputs) or None,
            hint="give the model that the student was made of; other types cannot be learned",
        )


def _can_be_compared(output: ir.Value) -> bool:
    return output.dtype in (None, ir.DataType.FLOAT) and 0 not in (output.shape or ())
