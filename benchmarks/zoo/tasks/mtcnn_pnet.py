"""The first stage of MTCNN, which finds faces: area under the ROC curve on 100 crops, half of them faces.

Needs what :mod:`benchmarks.zoo.faces` needs.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.zoo import faces
from benchmarks.zoo.scoring import Feed
from onnxslim.measure.metrics import MetricResult

_SIDE = 12  # pixels


def inputs(n: int = 32) -> Iterator[Feed]:
    """Crops to calibrate on."""
    return faces.inputs("mtcnn_pnet", _SIDE, n)


def held_out(n: int = 32) -> Iterator[Feed]:
    """Crops of the task."""
    return faces.held_out("mtcnn_pnet", _SIDE, n)


def score(path: str) -> MetricResult:
    """Area under the ROC curve over 100 crops."""
    return faces.score(path, _SIDE)


def metric(path: str) -> float:
    """Area under the ROC curve of the model at a path."""
    return score(path).value
