"""What turns outputs into answers, against brute force; no model of the zoo is needed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks.zoo.tasks import lac_bigru, ppocr_rec


def test_viterbi_finds_what_trying_all_sequences_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    transitions, emissions = random.normal(size=(3, 3)), random.normal(size=(5, 3))
    folder = tmp_path / "data" / "aux"
    folder.mkdir(parents=True)
    np.save(folder / "lac_crf_transitions.npy", transitions)
    monkeypatch.setenv("ZOO", str(tmp_path))

    def score(tags: tuple[int, ...]) -> float:
        steps = sum(transitions[a, b] for a, b in itertools.pairwise(tags))
        return float(steps + sum(emissions[i, tag] for i, tag in enumerate(tags)))

    best = max(itertools.product(range(3), repeat=5), key=score)
    assert lac_bigru._viterbi(emissions) == list(best)


def test_words_are_compared_by_their_places() -> None:
    assert lac_bigru._spans(["ab", "c"]) == {(0, 2), (2, 3)}
    assert not lac_bigru._spans(["a", "bc"]) & lac_bigru._spans(["ab", "c"])


@pytest.mark.parametrize(
    ("classes", "text"), [([0, 1, 1, 0, 1, 2, 2, 0], "aab"), ([0, 0], ""), ([2, 1, 2], "bab"), ([], "")]
)
def test_repeats_collapse_unless_a_blank_parts_them(classes: list[int], text: str) -> None:
    assert ppocr_rec._collapse(classes, ["", "a", "b"]) == text


def test_edits_are_the_shortest_way() -> None:
    def slow(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        change = slow(one[1:], other[1:]) + (one[0] != other[0])
        return min(change, slow(one[1:], other) + 1, slow(one, other[1:]) + 1)

    words = ["".join(letters) for n in range(4) for letters in itertools.product("ab", repeat=n)]
    for one, other in itertools.product(words, repeat=2):
        assert ppocr_rec._edits(one, other) == slow(one, other)


def test_each_box_is_matched_once() -> None:
    pytest.importorskip("scipy")
    from benchmarks.zoo.tasks import ppocr_det

    box, near, far = (0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 60, 60)
    assert ppocr_det._overlap(box, near) == 0.9
    assert ppocr_det._matches([box, near], [box]) == 1
    assert ppocr_det._matches([near, far], [box, far]) == 2
    assert ppocr_det._matches([far], [box]) == 0
    assert ppocr_det._matches([], [box]) == 0
