"""What makes feeds and turns outputs into answers, against brute force; no model of the zoo is needed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.zoo import faces, scoring
from benchmarks.zoo.tasks import lac_bigru, ppocr_rec, rxnmap
from tests.models import proto


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


def test_a_crop_is_as_much_a_face_as_its_likeliest_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up network whose probability is the red of each of four places; the odd crops are scored."""
    random = np.random.default_rng(7)
    crops = random.integers(0, 20, size=(200, 2, 2, 3)).astype(np.float32)
    crops[:100] += random.integers(0, 8, size=(100, 1, 1, 1))
    monkeypatch.setattr(faces, "_crops", lambda side: crops)
    graph = """g (float[N,2,2,3] x) => (float[N,2,2,3] other, float[N,2,2,2] softmax)
               <int64[2] red = {1, 0}> { other = Neg(x)  softmax = Gather<axis = 3>(x, red) }"""
    onnx.save(proto(graph), tmp_path / "some.onnx")
    values = [crop[..., 0].max() for crop in crops[1::2]]
    pairs = list(itertools.product(values[:50], values[50:]))
    found = faces.score(str(tmp_path / "some.onnx"), 2)
    assert found.value == pytest.approx(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs))
    assert found.n == 100 and found.interval[0] < found.value < found.interval[1]


def test_crops_are_transposed_and_near_one() -> None:
    pytest.importorskip("skimage")
    from PIL import Image

    crops = faces._crops(48)
    assert crops.shape == (200, 48, 48, 3) and -1 <= crops.min() < crops.max() <= 1
    stored = np.load(faces.scikit_image() / "lfw_subset.npy")[3]
    image = Image.fromarray(np.round(255 * stored).astype(np.uint8)).resize(
        (48, 48), Image.Resampling.BILINEAR
    )
    assert np.corrcoef(crops[3, :, :, 1].T.ravel(), np.asarray(image).ravel())[0, 1] > 0.99


def test_bonds_are_the_shortest_ways_through_the_tree() -> None:
    random = np.random.default_rng(1)
    parents = [int(random.integers(0, atom)) for atom in range(1, 12)]
    ways = np.full((12, 12), 99)
    for atom, parent in enumerate(parents, 1):
        ways[atom, parent] = ways[parent, atom] = 1
    np.fill_diagonal(ways, 0)
    for middle in range(12):
        ways = np.minimum(ways, ways[:, [middle]] + ways[[middle]])
    np.testing.assert_array_equal(rxnmap._bonds(parents), ways)


def test_closeness_is_one_less_the_relative_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = """g (int64[1,n] atoms, int64[1,n] neighbors, int64[1,n,n] distances, int64[1,n] roles)
                 => (float[1,n,n] attention)
               <float share = {%s}> { f = Cast<to = 1>(distances)  attention = Mul(f, share) }"""
    (tmp_path / "models").mkdir()
    for name, share in (("models/rxnmap", "1.0"), ("candidate", "0.75")):
        onnx.save(proto(graph % share), tmp_path / f"{name}.onnx")
    monkeypatch.setenv("ZOO", str(tmp_path))
    scoring.reference.cache_clear()
    try:
        assert rxnmap.metric(str(tmp_path / "models/rxnmap.onnx")) == 1
        assert rxnmap.metric(str(tmp_path / "candidate.onnx")) == pytest.approx(0.75)
    finally:
        scoring.reference.cache_clear()


def test_reactions_keep_their_molecules_apart() -> None:
    for feed in rxnmap.inputs(4):
        distances, half = feed["distances"][0], feed["atoms"].shape[1] // 2
        assert (distances[:half, half:] == 1).all() and (distances == distances.T).all()
        assert (np.diag(distances) == 2).all()
        bonded = (distances[:half, :half] == 3).sum(1)
        assert bonded.sum() == 2 * (half - 1)  # a tree
        np.testing.assert_array_equal(feed["neighbors"][0], np.tile(bonded + 2, 2))
