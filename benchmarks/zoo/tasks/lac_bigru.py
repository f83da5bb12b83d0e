"""LAC cuts Chinese into words: F1 of the words of 24 sentences cut by hand, decoded as in the package.

The model scores tags for each character; Viterbi with the package's transitions picks the sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.zoo.layout import HERE, auxiliary
from benchmarks.zoo.scoring import Array, Feed, open_session, resampled
from onnxslim.measure.metrics import MetricResult


def inputs(n: int = 32) -> Iterator[Feed]:
    """Random sentences of the same words: none of the task is seen."""
    random = np.random.RandomState(1)
    words = [word for sentence in _sentences() for word in sentence]
    return (_feed("".join(random.choice(words, random.randint(3, 12)))) for _ in range(n))


def held_out(n: int = 32) -> Iterator[Feed]:
    """Sentences of the task."""
    return (_feed("".join(words)) for words in _sentences()[:n])


def score(path: str) -> MetricResult:
    """F1 over the words' places; sentences are resampled."""
    session = open_session(path)
    rows = []
    for words in _sentences():
        text = "".join(words)
        tags = _viterbi(session.run(None, _feed(text))[0][0])
        found, wanted = _spans(_cut(text, tags)), _spans(words)
        rows.append((len(found & wanted), len(found), len(wanted)))
    return resampled(rows, lambda some: float(2 * some[:, 0].sum() / some[:, 1:].sum()))


def metric(path: str) -> float:
    """F1 of the model at a path."""
    return score(path).value


def _feed(text: str) -> Feed:
    known = {word: number for number, word in _dictionary("word.dic").items()}
    ids = [known.get(character, known.get("OOV", 0)) for character in text]
    return {"token_ids": np.array([ids], np.int64), "length": np.array([len(text)], np.int64)}


def _viterbi(emissions: Array) -> list[int]:
    """The most likely sequence of tags (Viterbi 1967); emissions [length, tags]."""
    transitions = np.load(auxiliary("lac_crf_transitions.npy"))
    best = emissions[0].copy()
    came_from = []
    for emission in emissions[1:]:
        scores = best[:, None] + transitions
        came_from.append(scores.argmax(0))
        best = scores.max(0) + emission
    path = [int(best.argmax())]
    for pointers in reversed(came_from):
        path.append(int(pointers[path[-1]]))
    return path[::-1]


def _cut(text: str, tags: Sequence[int]) -> list[str]:
    """Words: a tag that ends in -I goes on with the word before it."""
    names = _dictionary("tag.dic")
    words: list[str] = []
    for character, tag in zip(text, tags, strict=False):
        if words and names.get(tag, "n-B").endswith("-I"):
            words[-1] += character
        else:
            words.append(character)
    return words


def _spans(words: Sequence[str]) -> set[tuple[int, int]]:
    """First and last character of each word.

    Example:
        >>> sorted(_spans(["ab", "c"]))
        [(0, 2), (2, 3)]
    """
    ends = np.cumsum([len(word) for word in words]).tolist()
    return set(zip([0, *ends], ends, strict=False))


@functools.cache
def _dictionary(name: str) -> dict[int, str]:
    lines = auxiliary(name).read_text(encoding="utf-8").split("\n")
    pairs = (line.split("\t", 1) for line in lines if "\t" in line)
    return {int(number): word for number, word in pairs}


@functools.cache
def _sentences() -> list[list[str]]:
    return [
        line.split() for line in (HERE / "data" / "segmented.txt").read_text(encoding="utf-8").splitlines()
    ]
