"""Handwritten digits: 500 to calibrate on and 1000 others, with labels, from this repository's examples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.zoo.layout import EXAMPLES
from benchmarks.zoo.scoring import Array, Feed, open_session, proportion
from onnxslim.measure.metrics import MetricResult


def inputs(n: int = 32) -> Iterator[Feed]:
    """Digits to calibrate on."""
    return _feeds(_load("calibration")["image"][:n])


def held_out(n: int = 32) -> Iterator[Feed]:
    """Other digits."""
    return _feeds(_load("test")["image"][:n])


def score(path: str, batch: int = 100) -> MetricResult:
    """Accuracy on the 1000 labelled digits."""
    session, test = open_session(path), _load("test")
    image, label = test["image"], test["__labels__"]
    found = [
        session.run(None, {"image": image[start : start + batch]})[0].argmax(1)
        for start in range(0, len(image), batch)
    ]
    return proportion(np.concatenate(found) == label)


def _feeds(images: Array) -> Iterator[Feed]:
    return ({"image": images[i : i + 1]} for i in range(len(images)))


def _load(name: str) -> dict[str, Array]:
    with np.load(EXAMPLES / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored}
