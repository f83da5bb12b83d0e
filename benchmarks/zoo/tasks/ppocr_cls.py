"""PaddleOCR's classifier of orientation: accuracy on 120 rendered lines, half of them upside down.

Needs what :mod:`benchmarks.zoo.text` needs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.zoo.scoring import Array, Feed, open_session, proportion
from benchmarks.zoo.text import phrase, planes, resize, text_line
from onnxslim.measure.metrics import MetricResult

_HEIGHT, _WIDTH = 48, 192


def inputs(n: int = 32) -> Iterator[Feed]:
    """Lines to calibrate on."""
    return ({"x": image} for image, _ in _lines(100, n))


def held_out(n: int = 32) -> Iterator[Feed]:
    """Other lines."""
    return ({"x": image} for image, _ in _lines(0, n))


def score(path: str) -> MetricResult:
    """Accuracy on 120 lines."""
    session = open_session(path)
    return proportion(
        [session.run(None, {"x": image})[0][0].argmax() == label for image, label in _lines(0, 120)]
    )


def metric(path: str) -> float:
    """Accuracy of the model at a path."""
    return score(path).value


def _lines(seed: int, count: int) -> Iterator[tuple[Array, int]]:
    """Images [1, 3, 48, 192] in [-1, 1], padded with zeros, and whether they are upside down."""
    random = np.random.RandomState(seed)
    for number in range(count):
        text = phrase(random, random.randint(1, 4))[:22].strip()
        line = text_line(random, text, number, int(random.randint(20, 40)), noise=25)
        width = min(_WIDTH, max(24, int(_HEIGHT * line.shape[1] / line.shape[0])))
        line = resize(line, width, _HEIGHT)
        turned = number % 2
        if turned:
            line = line[::-1, ::-1]
        padded = np.zeros((1, 3, _HEIGHT, _WIDTH), np.float32)
        padded[..., :width] = planes(line[:, :, ::-1].astype(np.float32) / 127.5 - 1)
        yield padded, turned
