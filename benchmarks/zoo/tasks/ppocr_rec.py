"""PaddleOCR's recogniser: 1 - character error rate on 60 rendered lines of English.

Needs what :mod:`benchmarks.zoo.text` needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.zoo.scoring import Array, Feed, open_session, reference, resampled
from benchmarks.zoo.text import phrase, planes, resize, text_line
from onnxslim.measure.metrics import MetricResult

_HEIGHT = 48


def inputs(n: int = 32) -> Iterator[Feed]:
    """Lines to calibrate on; each has its own width."""
    return ({"x": image} for image, _ in _lines(100, n))


def held_out(n: int = 32) -> Iterator[Feed]:
    """Other lines."""
    return ({"x": image} for image, _ in _lines(0, n))


def score(path: str) -> MetricResult:
    """1 - edits / characters over 60 lines."""
    session = open_session(path)
    metadata = reference("ppocr_rec").get_modelmeta().custom_metadata_map
    alphabet = ["", *metadata["character"].splitlines(), " "]
    rows = []
    for image, text in _lines(0, 60):
        classes = session.run(None, {"x": image})[0][0].argmax(-1)
        rows.append((_edits(_collapse(classes, alphabet), text), len(text)))
    return resampled(rows, lambda counts: float(1 - counts[:, 0].sum() / counts[:, 1].sum()))


def metric(path: str) -> float:
    """1 - character error rate of the model at a path."""
    return score(path).value


def _lines(seed: int, count: int) -> Iterator[tuple[Array, str]]:
    """Images [1, 3, 48, width] in [-1, 1], and their text."""
    random = np.random.RandomState(seed)
    for number in range(count):
        text = phrase(random, random.randint(2, 5))[:28].strip()
        line = text_line(random, text, number, int(random.randint(22, 40)), noise=18)
        width = max(48, int(_HEIGHT * line.shape[1] / line.shape[0]))
        pixels = resize(line, width, _HEIGHT).astype(np.float32) / 127.5 - 1
        yield planes(pixels[:, :, ::-1]), text


def _collapse(classes: Sequence[int] | Array, alphabet: Sequence[str]) -> str:
    """Best path of connectionist temporal classification (Graves et al. 2006); class 0 is the blank."""
    kept = [
        alphabet[now] for before, now in zip([-1, *classes], classes, strict=False) if now and now != before
    ]
    return "".join(kept)


def _edits(one: str, other: str) -> int:
    """Levenshtein distance.

    Example:
        >>> _edits("kitten", "sitting")
        3
    """
    row = list(range(len(other) + 1))
    for i, x in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
