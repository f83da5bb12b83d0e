"""Two levels against all pairs of sides, and against values one by one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.reconstruct.signs import Levels, two_levels


@pytest.mark.parametrize("density", ["normal", "exponential", "uniform"])
def test_no_cut_is_better(density: str) -> None:
    random = np.random.default_rng(0)
    values, counts = np.sort(getattr(random, density)(size=40)), random.integers(0, 9, 40)
    found = two_levels(values, counts)
    assert found is not None
    many = np.repeat(values, counts)
    error = np.square(many - np.where(many > found.threshold, found.high, found.low)).sum()
    for cut in many[:-1]:
        low, high = many[many <= cut], many[many > cut]
        if len(high):
            assert error <= np.square(low - low.mean()).sum() + np.square(high - high.mean()).sum() + 1e-9
    assert found.low < found.threshold < found.high
    np.testing.assert_allclose(np.where(many > found.threshold, found.high, found.low).mean(), many.mean())


def test_values_are_two() -> None:
    levels = Levels(-1.0, 3.0)
    found = levels.quantize(np.array([-9, 0.999, 1.0, 1.001, 50], np.float32))
    assert found.tolist() == [-1, -1, -1, 3, 3] and found.dtype == np.float32


def test_one_value_has_no_two_levels() -> None:
    assert two_levels(np.array([1.0, 2.0]), np.array([5, 0])) is None
    assert two_levels(np.zeros(0), np.zeros(0)) is None
