"""Statistics against brute force and known distributions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from onnxslim.measure.stats import bootstrap_interval, nested_bootstrap, pooled_median, wilson_interval


def test_nested_bootstrap_agrees_with_enumeration() -> None:
    """Two epochs of two and three rounds: every resample can be listed, with its probability."""
    epochs = [np.array([0.0, 4.0]), np.array([1.0, 2.0, 9.0])]
    weights: dict[float, float] = {}
    for chosen in itertools.product(range(2), repeat=2):
        draws = [itertools.product(epochs[e], repeat=len(epochs[e])) for e in chosen]
        outcomes = [tuple(draw) for draw in draws]  # each list of draws is equally likely
        for one, other in itertools.product(*outcomes):
            median = float(np.median([*one, *other]))
            weights[median] = weights.get(median, 0.0) + 0.25 / (len(outcomes[0]) * len(outcomes[1]))
    values = sorted(weights)
    cumulated = np.cumsum([weights[value] for value in values])
    low = values[int(np.searchsorted(cumulated, 0.1))]
    high = values[int(np.searchsorted(cumulated, 0.9))]
    assert sum(weights.values()) == pytest.approx(1)
    assert nested_bootstrap(epochs, resamples=20_000, tail=0.1) == (low, high)


def test_differences_between_epochs_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    calm = [rng.normal(0, 0.01, 50) for _ in range(4)]
    shifted = [epoch + shift for epoch, shift in zip(calm, (-0.1, -0.05, 0.05, 0.1), strict=True)]
    width = [np.ptp(nested_bootstrap(epochs)) for epochs in (calm, shifted)]
    assert width[0] < 0.02 and width[1] > 0.1


@pytest.mark.parametrize(("count", "between"), [(3, 0.0), (3, 0.05), (6, 0.05)])
def test_the_interval_covers_the_true_median(count: int, between: float) -> None:
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        epochs = [rng.laplace(0.3, 0.1, 20) + rng.normal(0, between) for _ in range(count)]
        low, high = nested_bootstrap(epochs, resamples=200, seed=seed)
        covered += low <= 0.3 <= high
    assert covered >= 92


def test_the_same_seed_gives_the_same_interval() -> None:
    epochs = [np.random.default_rng(1).normal(size=30) for _ in range(3)]
    assert nested_bootstrap(epochs, seed=5) == nested_bootstrap(epochs, seed=5)
    assert nested_bootstrap(epochs, seed=5, resamples=50) != nested_bootstrap(epochs, seed=6, resamples=50)
    assert pooled_median([np.array([1.0]), np.array([2.0, 30.0])]) == 2.0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (950, 1000)])
def test_wilson_solves_its_equation(k: int, n: int) -> None:
    """The ends are where the score test just rejects: (p - k/n)^2 = z^2 p (1 - p) / n."""
    z = 1.959963984540054
    for end in wilson_interval(k, n):
        assert (end - k / n) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-12)


def test_wilson_without_data_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_bootstrap_interval_of_a_mean_is_near_the_normal_one() -> None:
    data = np.random.default_rng(2).normal(5, 2, 400)
    low, high = bootstrap_interval(data, resamples=4000)
    half = 1.96 * data.std(ddof=1) / math.sqrt(len(data))
    assert low == pytest.approx(data.mean() - half, abs=0.02)
    assert high == pytest.approx(data.mean() + half, abs=0.02)
