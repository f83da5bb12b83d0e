"""Is there a face? Area under the ROC curve on crops of Labeled Faces in the Wild, half of them faces.

The 200 crops come with scikit-image: 100 faces, then 100 others, in grey.  Those of even number are to
calibrate on, those of odd number are scored.  Needs pillow and scikit-image.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from benchmarks.zoo.photos import scikit_image
from benchmarks.zoo.scoring import Array, Feed, open_session, reference, resampled
from benchmarks.zoo.text import resize
from onnxslim.measure.metrics import MetricResult

_FACES = 100


def inputs(name: str, side: int, n: int) -> Iterator[Feed]:
    """Crops to calibrate on, evenly spread over faces and others."""
    return _spread(name, _crops(side)[::2], n)


def held_out(name: str, side: int, n: int) -> Iterator[Feed]:
    """Crops that are scored, evenly spread."""
    return _spread(name, _crops(side)[1::2], n)


def score(path: str, side: int) -> MetricResult:
    """Area under the ROC curve of the probability of a face; a crop's is that of its likeliest place."""
    session = open_session(path)
    [output] = [info.name for info in session.get_outputs() if info.name.startswith("softmax")]
    crops = _crops(side)
    [found] = session.run([output], {session.get_inputs()[0].name: crops[1::2]})
    probability = found[..., 1].reshape(len(found), -1).max(1)
    is_face = np.arange(len(crops))[1::2] < _FACES
    return resampled(np.stack([probability, is_face], 1), area_under_curve)


def area_under_curve(rows: Array) -> float:
    """The chance that a positive ranks before a negative (Mann and Whitney 1947); ties count half.

    Args:
        rows: value, and 1 for a positive or 0 for a negative.

    Example:
        >>> area_under_curve(np.array([[0.9, 1], [0.4, 1], [0.4, 0], [0.1, 0]]))
        0.875
    """
    values, positive = rows[:, 0], rows[:, 1] > 0
    difference = values[positive][:, None] - values[~positive][None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def _spread(name: str, crops: Array, n: int) -> Iterator[Feed]:
    key = reference(name).get_inputs()[0].name
    chosen = range(0, len(crops), max(1, len(crops) // n))
    return islice(({key: crops[i : i + 1]} for i in chosen), n)


def _crops(side: int) -> Array:
    """Images [200, width, height, 3] in about [-1, 1]; the networks were trained on transposed ones."""
    grey = np.load(scikit_image() / "lfw_subset.npy")
    grey = (255 * (grey - grey.min()) / (grey.max() - grey.min())).astype(np.uint8)
    resized = np.stack([resize(image, side, side) for image in grey]).astype(np.float32)
    return np.repeat((resized.transpose(0, 2, 1)[..., None] - 127.5) / 128, 3, -1)
