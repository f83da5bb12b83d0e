"""Gradients of the zoo: do they exist for every weight, are they right, and what does a step cost?

    python -m benchmarks.gradients --zoo ROOT [--torch PYTHON]

Every model in float, simplified, with static shapes (several inputs at once where the batch is open).  The
loss is the mean squared distance of every float output from a random target.  Weights are all stored floats
of at least one axis and more than one element.  The derivative along the gradient itself is compared with
central differences of several steps, of which the best counts: single precision rounds the small ones, kinks
spoil the large ones.  Times are the CPU's, of onnxruntime with one thread, runs of the forward pass and of
the step by turns, the fastest of each; ``forward`` is the loss of the simplified model with its weights
stored in it.  With ``--torch``, an interpreter that has torch, its step on the same graph is timed as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import TASKS, check_names, model_path, task, use
from onnxslim._ir import ir
from onnxslim.distillation.gradient import Gradient, differentiate
from onnxslim.model import edit, io
from onnxslim.ops.registry import spec_of
from onnxslim.recipes.api import simplify

HEADER = (
    "model",
    "batch",
    "weights",
    "frozen",
    "error",
    "forward ms",
    "step ms",
    "ratio",
    "torch ms",
    "to torch",
)
STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # what the loss is to change by, of itself
BATCH, LARGEST, ROUNDS, LONGEST = 16, 1 << 21, 40, 8.0

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """What was found of one model; ``reasons`` counts those of the frozen weights."""

    name: str
    batch: int
    weights: int
    frozen: int
    reasons: Mapping[str, int]
    error: float
    forward: float
    step: float
    torch: float | None

    def cells(self) -> tuple[str, ...]:
        """As a row of the table."""
        times = [f"{self.forward:.2f}", f"{self.step:.2f}", f"{self.step / self.forward:.1f}"]
        times += ["", ""] if self.torch is None else [f"{self.torch:.2f}", f"{self.step / self.torch:.2f}"]
        return (self.name, str(self.batch), str(self.weights), str(self.frozen), f"{self.error:.1e}", *times)


def measured(name: str, torch: str | None, rounds: int = ROUNDS) -> Row:
    """One model of the zoo."""
    model, feed, batch = prepared(name)
    weights = trainable(model)
    targets = add_loss(model, feed)
    step = differentiate(model, "loss", list(weights))
    trained = {key: weights[key] for key in step.gradients}
    error = directional(step, trained, {**feed, **targets})
    forward = session(with_output(model, "loss"))
    backward = session(step.model)
    inputs = {**feed, **targets, **trained}
    peer = None if torch is None else torch_time(torch, with_output(model, "loss"), {**feed, **targets})
    times = interleaved([(forward, needed(forward, inputs)), (backward, needed(backward, inputs))], rounds)
    reasons: dict[str, int] = {}
    for why in step.frozen.values():
        reasons[why] = reasons.get(why, 0) + 1
    return Row(name, batch, len(weights), len(step.frozen), reasons, error, *(1e3 * t for t in times), peer)


def prepared(name: str) -> tuple[ir.Model, dict[str, Array], int]:
    """The simplified model for static inputs, and these."""
    model = io.load(model_path(name))
    feeds = list(task(name).inputs(BATCH))
    first = dict(feeds[0])
    feeds = feeds[: max(1, LARGEST // max(array.size for array in first.values()))]
    shapes = [value.shape for value in model.graph.inputs if value.name in first]
    batch = 1
    if all(shape is not None and len(shape) and not isinstance(shape[0], int) for shape in shapes) and all(
        array.shape == first[key].shape and len(array) == 1 for feed in feeds for key, array in feed.items()
    ):
        batch = len(feeds)
        first = {key: np.concatenate([feed[key] for feed in feeds]) for key in first}
    for value in list(model.graph.inputs):
        array = first[value.name or ""]
        if array.dtype.kind != "f" and array.size == 1:  # a setting, such as a sampling rate
            model.graph.inputs.remove(value)
            stored = edit.add_initializer(model.graph, first.pop(value.name or ""), "setting")
            for user, index in tuple(value.uses()):
                user.replace_input_with(index, stored)
        else:
            value.shape = ir.Shape(array.shape)
    for value in model.graph.initializers.values():  # a session gets bytes, beside which no file lies
        content = edit.constant_value(value)
        if content is not None:
            edit.replace_initializer(value, np.array(content))
    return simplify(model).model, first, batch


def trainable(model: ir.Model) -> dict[str, Array]:
    """Stored floats that an output depends on."""
    found = {}
    for key, value in model.graph.initializers.items():
        content = edit.constant_value(value)
        if content is None or content.dtype != np.float32 or not content.ndim or content.size < 2:
            continue
        if any(index not in _sizes(user) for user, index in value.uses()):
            found[key] = content
    return found


def _sizes(node: ir.Node) -> tuple[int, ...]:
    """Inputs that say how large the output is: nothing to train."""
    spec = spec_of(node)
    return () if spec is None else spec.sized_by


def add_loss(model: ir.Model, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Mean squared distances from random targets, which become inputs; their values."""
    outputs = [value for value in model.graph.outputs if value.dtype == ir.DataType.FLOAT]
    runner = session(model)
    names = [value.name for value in model.graph.outputs]
    made = dict(zip(names, runner.run(None, needed(runner, feed)), strict=True))
    random, targets, total = np.random.default_rng(0), {}, None
    graph = model.graph

    def emit(op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = edit.new_node(op_type, inputs, attributes)
        node.outputs[0].name = edit.unique_name(graph, "loss_part")
        graph.append(node)
        return node.outputs[0]

    for index, output in enumerate(outputs):
        array = np.asarray(made[output.name])
        key = f"target{index}"
        targets[key] = (array + (array.std() + 1e-3) * random.normal(size=array.shape)).astype(np.float32)
        target = ir.Value(name=key, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT))
        graph.inputs.append(target)
        difference = emit("Sub", output, target)
        part = emit("ReduceMean", emit("Mul", difference, difference), keepdims=0)
        total = part if total is None else emit("Add", total, part)
    assert total is not None
    total.name = "loss"
    return targets


def with_output(model: ir.Model, name: str) -> ir.Model:
    """A copy that computes one value alone."""
    copy = model.clone()
    [value] = [o for node in copy.graph for o in node.outputs if o.name == name]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    copy.graph.outputs[:] = [value]
    return copy


def directional(step: Gradient, weights: Mapping[str, Array], feed: Mapping[str, Array]) -> float:
    """Relative error of the derivative along the gradient, that of the best step."""
    if not weights:
        return float("nan")
    runner = session(step.model, optimized=False)
    names = [value.name for value in runner.get_outputs()]
    made = dict(zip(names, runner.run(None, needed(runner, {**feed, **weights})), strict=True))
    gradients = {key: made[output].astype(np.float64) for key, output in step.gradients.items()}
    square = sum(float((g**2).sum()) for g in gradients.values())
    if not square:
        return float("nan")
    errors = []
    for relative in STEPS:
        size = relative * float(made["loss"]) / square
        losses = []
        for sign in (1, -1):
            moved = {key: (w + sign * size * gradients[key]).astype(np.float32) for key, w in weights.items()}
            [loss] = runner.run(["loss"], needed(runner, {**feed, **moved}))
            losses.append(float(loss))
        errors.append(abs((losses[0] - losses[1]) / (2 * size) / square - 1))
    return min(errors)


def torch_time(python: str, model: ir.Model, feed: Mapping[str, Array]) -> float | None:
    """Milliseconds of torch's step; None where its graph is not spoken."""
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(ir.to_proto(model), f"{folder}/model.onnx")
        np.savez(f"{folder}/feed.npz", **feed)
        command = [python, "-m", "benchmarks.peers.torch_step", f"{folder}/model.onnx", f"{folder}/feed.npz"]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=Path(__file__).parent.parent
        )
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    return float(done.stdout)


def session(model: ir.Model, *, optimized: bool = True) -> ort.InferenceSession:
    """With one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    proto = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


def needed(runner: ort.InferenceSession, values: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of a session."""
    return {value.name: values[value.name] for value in runner.get_inputs()}


def interleaved(
    pairs: Sequence[tuple[ort.InferenceSession, Mapping[str, Array]]], rounds: int
) -> list[float]:
    """Fewest CPU seconds of each, run by turns."""
    times: list[list[float]] = [[] for _ in pairs]
    start = time.perf_counter()
    for turn in range(rounds + 2):
        for own, (runner, feed) in zip(times, pairs, strict=True):
            before = time.process_time()
            runner.run(None, feed)
            own.append(time.process_time() - before)
        if turn > 4 and time.perf_counter() - start > LONGEST:
            break
    return [min(own[2:]) for own in times]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="models; default all in float")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where gradients.md and .json go")
    parser.add_argument("--torch", metavar="PYTHON", help="an interpreter that has torch and onnx")
    given = parser.parse_args(arguments)
    names = given.names or [name for name in TASKS if not name.endswith("int8")]
    check_names(parser, names)
    use(given.zoo)
    rows = []
    for name in names:
        try:
            row = measured(name, given.torch)
        except Exception as error:  # a model that fails is a result, too
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        rows.append(row)
        print(" | ".join(row.cells()), *(f"{n} x {why}" for why, n in row.reasons.items()), sep="\n  ")
    text = markdown(HEADER, [row.cells() for row in rows])
    write(given.results, "gradients", text, rows)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
