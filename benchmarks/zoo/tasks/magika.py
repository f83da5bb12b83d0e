"""Magika tells the type of a file from its bytes: accuracy on 291 real files, labelled by their extension.

Needs the list of classes that the package ships; the features of the files are in this repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from benchmarks.zoo.layout import HERE, auxiliary
from benchmarks.zoo.scoring import Array, Feed, open_session, proportion
from onnxslim.measure.metrics import MetricResult


def inputs(n: int = 32) -> Iterator[Feed]:
    """Files of the first quarter."""
    features, _ = _load()
    return ({"bytes": features[i : i + 1]} for i in range(min(n, len(features) // 4)))


def held_out(n: int = 32) -> Iterator[Feed]:
    """Files of the other three, from the end."""
    features, _ = _load()
    return ({"bytes": features[i : i + 1]} for i in range(len(features) - n, len(features)))


def score(path: str) -> MetricResult:
    """Accuracy over the last three quarters of the files."""
    features, labels = _load()
    start = len(features) // 4
    classes = np.array(json.loads(auxiliary("magika.json").read_text())["target_labels_space"])
    found = open_session(path).run(None, {"bytes": features[start:]})[0].argmax(1)
    return proportion(classes[found] == labels[start:])


def metric(path: str) -> float:
    """Accuracy of the model at a path."""
    return score(path).value


def _load() -> tuple[Array, Array]:
    with np.load(HERE / "data" / "magika.npz") as stored:
        return stored["x"], stored["y"]
