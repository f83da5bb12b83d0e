"""The judge against numbers computed by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.errors import CalibrationError, OptionError
from onnxslim.recipes.budget import parse_drop
from onnxslim.recipes.quality import Judge
from onnxslim.runtime.client import Worker, open_worker
from tests import models

SOFTMAX = "g (float[n, 3] x) => (float[n, 3] y) { y = Softmax(x) }"
FEEDS = [{"x": np.eye(3, dtype=np.float32)[[k % 3]] * 2} for k in range(12)]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with open_worker() as running:
        yield running


def scaled(factor: float) -> ir.Model:
    return models.model(
        f"g (float[n, 3] x) => (float[n, 3] y) {{ f = Constant<value_float={factor}>() y = Mul(x, f) }}"
    )


def test_labels_decide_where_there_are_some(worker: Worker) -> None:
    labels = [np.array([k % 3]) for k in range(12)]
    judge = Judge(worker, models.model(SOFTMAX), FEEDS, labels, parse_drop("10%"))
    wrong = models.model("g (float[n, 3] x) => (float[n, 3] y) { m = Neg(x) y = Softmax(m) }")
    score = judge.score(wrong)
    assert (score.name, score.before, score.after, score.n) == ("top1", 1.0, 0.0, 12)
    assert score.rejected is not None
    assert "top1" in score.rejected
    assert judge.score(models.model(SOFTMAX)).rejected is None


def test_without_labels_probabilities_are_compared_as_classes(worker: Worker) -> None:
    judge = Judge(worker, models.model(SOFTMAX), FEEDS, None, parse_drop("1%"))
    sharper = models.model(
        """g (float[n, 3] x) => (float[n, 3] y) {
            f = Constant<value_float=1.1>() m = Mul(x, f) y = Softmax(m) }"""
    )
    score = judge.score(sharper)
    assert (score.name, score.after, score.rejected) == ("agreement", 1.0, None)
    x = 2 * np.eye(3)[0]
    expected, got = (np.exp(k * x) / np.exp(k * x).sum() for k in (1.0, 1.1))
    noise = ((expected - got) ** 2).sum()
    assert score.sqnr_db == pytest.approx(10 * np.log10((expected**2).sum() / noise), abs=1e-3)


def test_other_outputs_are_compared_by_cosine_and_noise(worker: Worker) -> None:
    judge = Judge(worker, scaled(1.0), FEEDS, None, parse_drop("1%"))
    assert judge.score(scaled(0.9)).name == "cosine"
    assert judge.score(scaled(0.9)).rejected is None  # same direction, 20 dB
    noisy = judge.score(scaled(0.5))
    assert noisy.sqnr_db == pytest.approx(6.02, abs=0.01)
    assert noisy.rejected is not None
    assert "too noisy" in noisy.rejected


def test_a_budget_in_unknown_units_is_not_held_against_cosines(worker: Worker) -> None:
    strict = Judge(worker, scaled(1.0), FEEDS, None, parse_drop("0"), unseen=True)
    assert strict.score(scaled(0.9)).rejected is None
    rejected = strict.score(scaled(0.8)).rejected  # 14 dB
    assert rejected is not None
    assert "15 dB" in rejected


def test_for_a_metric_that_is_not_known_classes_count_by_how_near_to_a_tie_they_were(worker: Worker) -> None:
    """The second class wins by a hair in the candidate; in the original it had all but lost."""
    near = [{"x": np.array([[1.0, 0.99, 0.0]], np.float32)}] * 11
    sure = [{"x": np.array([[4.0, 0.0, 0.0]], np.float32)}]
    turned = models.model(
        """g (float[n, 3] x) => (float[n, 3] y) {
            t = Constant<value = float[1, 3] {0.0, 0.05, 0.0}>() m = Add(x, t) y = Softmax(m) }"""
    )
    feeds = [*near, *sure]
    known = Judge(worker, models.model(SOFTMAX), feeds, None, parse_drop("0.01"))
    unseen = Judge(worker, models.model(SOFTMAX), feeds, None, parse_drop("0.01"), unseen=True)
    assert known.score(turned).after == pytest.approx(1 / 12) and known.score(turned).rejected is not None
    score = unseen.score(turned)
    odds = np.exp([1.0, 0.99, 0.0])
    lost = (odds[0] - odds[1]) / odds.sum() * 11 / 12
    assert score.name == "expected agreement" and score.rejected is None
    assert score.after == pytest.approx(1 - lost, abs=1e-5)
    assert unseen.stricter(score.sqnr_db + 1).score(turned).rejected is not None
    assert unseen.stricter(score.sqnr_db - 1).score(turned).rejected is None
    assert unseen.score(turned).rejected is None, "the lenient one stays so"


def test_a_candidate_of_another_kind_is_rejected(worker: Worker) -> None:
    judge = Judge(worker, scaled(1.0), FEEDS, None, parse_drop("1%"))
    other = models.model("g (float[n, 3] x) => (double[n, 3] y) { y = Cast<to=11>(x) }")
    rejected = judge.score(other).rejected
    assert rejected is not None
    assert "another kind" in rejected


def test_what_cannot_be_judged_is_named(worker: Worker) -> None:
    with pytest.raises(OptionError, match="no output 'z'"):
        Judge(worker, scaled(1.0), FEEDS, None, parse_drop("1%"), "z")
    with pytest.raises(CalibrationError, match="labels do not fit"):
        Judge(worker, scaled(1.0), FEEDS, [np.zeros(2)] * 12, parse_drop("1%"))
    with pytest.raises(CalibrationError, match="does not run on the data"):
        Judge(worker, scaled(1.0), [{"x": np.zeros((1, 4), np.float32)}], None, parse_drop("1%"))


def test_a_part_of_a_budget_grants_half_of_the_noise_and_no_sample(worker: Worker) -> None:
    whole = Judge(worker, scaled(1.0), FEEDS, None, parse_drop("1%"))
    assert whole.score(scaled(0.7)).rejected is None  # 10.5 dB
    assert "13 dB" in (whole.part(0.5).score(scaled(0.7)).rejected or "")
    assert whole.part(0.5).score(scaled(0.8)).rejected is None  # 14 dB
    turned = models.model(
        """g (float[n, 3] x) => (float[n, 3] y) {
            t = Constant<value = float[1, 3] {0.0, 0.05, 0.0}>() m = Add(x, t) y = Softmax(m) }"""
    )
    near, sure = ({"x": np.array([[1.0, second, 0.0]], np.float32)} for second in (0.99, 0.0))
    whole = Judge(worker, models.model(SOFTMAX), [near, *[sure] * 11], None, parse_drop("1%"))
    found, part = whole.score(turned), whole.part(0.5).score(turned)
    assert found.after == part.after == pytest.approx(11 / 12)
    assert found.rejected is None and "more than 0.5 % lost" in (part.rejected or "")
