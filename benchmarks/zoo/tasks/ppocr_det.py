"""PaddleOCR's detector: F1 of the boxes of text lines on 16 rendered pages, at an overlap of one half.

Boxes are those of differentiable binarization (Liao et al. 2020, arXiv:1911.08947), upright.
Needs scipy, and what :mod:`benchmarks.zoo.text` needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from benchmarks.zoo.scoring import Array, Feed, open_session, resampled
from benchmarks.zoo.text import Box, page, planes
from onnxslim.measure.metrics import MetricResult

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_THRESHOLD, _BOX_THRESHOLD, _UNCLIP = 0.3, 0.5, 1.6


def inputs(n: int = 32) -> Iterator[Feed]:
    """Pages to calibrate on."""
    return (feed for feed, _ in _pages(100, n))


def held_out(n: int = 8) -> Iterator[Feed]:
    """Other pages."""
    return (feed for feed, _ in _pages(0, n))


def score(path: str) -> MetricResult:
    """F1 over 16 pages, which are resampled."""
    session = open_session(path)
    rows = []
    for feed, wanted in _pages(0, 16):
        found = _boxes(session.run(None, feed)[0][0, 0])
        rows.append((_matches(found, wanted), len(found), len(wanted)))
    return resampled(rows, lambda some: float(2 * some[:, 0].sum() / some[:, 1:].sum()))


def metric(path: str) -> float:
    """F1 of the model at a path."""
    return score(path).value


def _pages(seed: int, count: int) -> Iterator[tuple[Feed, list[Box]]]:
    random = np.random.RandomState(seed)
    for _ in range(count):
        image, boxes = page(random)
        yield {"x": planes((image[:, :, ::-1].astype(np.float32) / 255 - _MEAN) / _DEVIATION)}, boxes


def _boxes(probability: Array) -> list[Box]:
    """Boxes around connected regions, grown again by what training shrank them."""
    regions, _ = ndimage.label(probability > _THRESHOLD)
    boxes = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(regions), 1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        inside = regions[rows, columns] == number
        if min(height, width) < 3 or probability[rows, columns][inside].mean() < _BOX_THRESHOLD:
            continue
        grow = height * width * _UNCLIP / (2 * (height + width))
        boxes.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return boxes


def _matches(found: Sequence[Box], wanted: Sequence[Box]) -> int:
    """How many boxes overlap one of their own by at least one half."""
    free = list(wanted)
    matched = 0
    for box in found:
        best = max(free, key=lambda other: _overlap(box, other), default=None)
        if best is not None and _overlap(box, best) >= 0.5:
            free.remove(best)
            matched += 1
    return matched


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union.

    Example:
        >>> _overlap((0, 0, 2, 1), (1, 0, 3, 1))
        0.3333333333333333
    """
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)
