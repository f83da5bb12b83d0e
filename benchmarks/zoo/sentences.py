"""A sentence encoder's task: do cosines rank paraphrases before the same topic before unrelated sentences?

Spearman's correlation over twenty topics.  Needs tokenizers and scipy, and the words of
:mod:`benchmarks.zoo.text` to calibrate on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
from scipy.stats import spearmanr
from tokenizers import Tokenizer

from benchmarks.zoo.layout import HERE, auxiliary
from benchmarks.zoo.scoring import Array, Feed, open_session, resampled
from benchmarks.zoo.text import phrase
from onnxslim.measure.metrics import MetricResult


def inputs(n: int = 32) -> Iterator[Feed]:
    """Phrases of 6 to 29 words to calibrate on."""
    random = np.random.RandomState(5)
    return (_feed(phrase(random, random.randint(6, 30))) for _ in range(n))


def held_out(n: int = 32) -> Iterator[Feed]:
    """Sentences of the task."""
    sentences = [sentence for topic in _topics() for sentence in topic]
    return (_feed(sentence) for sentence in sentences[:n])


def score(path: str) -> MetricResult:
    """Spearman's correlation of cosine with 2 (paraphrase), 1 (same topic), 0 (unrelated).

    Topics are resampled for the interval.
    """
    session = open_session(path)
    vectors = [[_embed(session, sentence) for sentence in topic] for topic in _topics()]
    rows = []
    for i, (sentence, paraphrase, related) in enumerate(vectors):
        unrelated = [vectors[(i + step) % len(vectors)][0] for step in (1, 7)]
        cosines = [float(sentence @ other) for other in (paraphrase, related, *unrelated)]
        rows.append([cosines, [2, 1, 0, 0]])
    return resampled(
        rows, lambda some: float(spearmanr(some[:, 0].ravel(), some[:, 1].ravel())[0]), 4 * len(rows)
    )


def _embed(session: ort.InferenceSession, sentence: str) -> Array:
    vector = session.run(None, _feed(sentence))[0][0].mean(0)
    return np.asarray(vector / np.linalg.norm(vector))


def _feed(sentence: str) -> Feed:
    ids = np.array([_tokenizer().encode(sentence).ids], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@functools.cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(auxiliary("minilm_tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    return tokenizer


@functools.cache
def _topics() -> list[list[str]]:
    """Of each topic a sentence, a paraphrase of it, and another sentence on the same topic."""
    lines = (HERE / "data" / "sentences.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines]
