"""The tasks whose models ship with the repository, and what the tasks have in common."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import benchmarks.zoo.tasks as tasks
from benchmarks.zoo.layout import EXAMPLES, model_path
from benchmarks.zoo.scoring import proportion, resampled

FILES = sorted(Path(next(iter(tasks.__path__))).glob("[!_]*.py"))
DIGITS = ["mnist_resnet14", "mnist_mobilenetv2", "mnist_vgg", "mnist_vit", "mnist_bigru"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_task_offers_the_same_functions(path: Path) -> None:
    """Read, not imported: some tasks need packages that only the benchmarks need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert {"inputs", "held_out", "score", "metric"} <= names


@pytest.mark.parametrize("name", DIGITS)
def test_accuracy_counts_hits_one_by_one(name: str) -> None:
    with np.load(EXAMPLES / "test.npz") as stored:
        images, labels = stored["image"], stored["__labels__"]
    session = ort.InferenceSession(model_path(name), providers=["CPUExecutionProvider"])
    hits = 0
    for image, label in zip(images, labels, strict=True):
        hits += int(np.argmax(session.run(None, {"image": image[None]})[0]) == label)
    task = importlib.import_module(f"benchmarks.zoo.tasks.{name}")
    found = task.score(str(model_path(name)))
    assert (found.value, found.n) == (hits / 1000, 1000)
    assert task.metric(str(model_path(name))) == found.value
    assert found.interval[0] < found.value < found.interval[1]


def test_a_broken_model_scores_like_chance(tmp_path: Path) -> None:
    model = onnx.load(model_path("mnist_mobilenetv2"))
    for weight in model.graph.initializer:
        if len(weight.dims) == 2:
            values = np.zeros_like(onnx.numpy_helper.to_array(weight))
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    task = importlib.import_module("benchmarks.zoo.tasks.mnist_mobilenetv2")
    assert task.metric(str(tmp_path / "broken.onnx")) < 0.2


def test_calibration_and_held_out_feeds_differ() -> None:
    task = importlib.import_module("benchmarks.zoo.tasks.mnist_resnet14")
    seen = {feed["image"].tobytes() for feed in task.inputs()}
    others = {feed["image"].tobytes() for feed in task.held_out()}
    assert len(seen) == len(others) == 32
    assert not seen & others


def test_a_proportion_has_the_interval_of_wilson() -> None:
    found = proportion([True] * 9 + [False])
    assert found.value == 0.9
    assert found.interval == pytest.approx((0.5958, 0.9821), abs=1e-4)  # by hand, from his formula


def test_the_interval_of_a_resampled_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(5, 1, 400)
    found = resampled(values, lambda rows: float(rows.mean()))
    assert found.value == values.mean() and found.n == 400
    half = 1.96 * values.std() / 20
    assert found.interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
