"""OpenNSFW rates photographs.  There are no labels here: closeness to the original's probabilities.

1 - mean |difference| over twenty photographs; ten others are for calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from benchmarks.zoo.photos import photos
from benchmarks.zoo.scoring import Array, Feed, open_session, reference, resampled
from benchmarks.zoo.text import resize
from onnxslim.measure.metrics import MetricResult

_MEAN = np.array([104, 117, 123], np.float32)  # of the training images, BGR
_SIDE, _BORDER = 224, 16


def inputs(n: int = 32) -> Iterator[Feed]:
    """Every third photograph: the centre, then its mirror image, then the corners."""
    images = photos()[::3]
    middle, far = _BORDER, 2 * _BORDER
    views = [(middle, middle, 1), (middle, middle, -1), (0, 0, 1), (far, far, -1)]
    return islice((_feed(image, *view) for view in views for image in images), n)


def held_out(n: int = 32) -> Iterator[Feed]:
    """The centres of the other photographs."""
    return islice((_feed(image) for i, image in enumerate(photos()) if i % 3), n)


def score(path: str) -> MetricResult:
    """Closeness to the original's probabilities; 1 is equal."""
    session, original = open_session(path), reference("opennsfw")
    distances = [
        np.abs(np.subtract(session.run(None, feed)[0], original.run(None, feed)[0], dtype=np.float64)).mean()
        for feed in held_out()
    ]
    return resampled(distances, lambda rows: float(1 - rows.mean()))


def metric(path: str) -> float:
    """Closeness of the model at a path to the original."""
    return score(path).value


def _feed(image: Array, top: int = _BORDER, left: int = _BORDER, step: int = 1) -> Feed:
    side = _SIDE + 2 * _BORDER
    crop = resize(image, side, side)[top : top + _SIDE, left : left + _SIDE][:, ::step]
    return {"input:0": (crop[:, :, ::-1].astype(np.float32) - _MEAN)[None]}
