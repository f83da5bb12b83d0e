"""The closed form against numpy's least squares, and the promise that held-out rows never get worse."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.reconstruct.ridge import DAMPINGS, Sums, fit, with_ones

Array = np.ndarray


def rows(count: int, groups: int, length: int, seed: int) -> Array:
    mix = np.random.default_rng(9).normal(size=(length, length))
    return np.random.default_rng(seed).normal(size=(groups, count, length)) @ mix + 0.5


def sums_of(x: Array, y: Array) -> Sums:
    sums = Sums.empty(x.shape[0], x.shape[2], y.shape[2])
    sums.add(x[:, : len(x[0]) // 2], y[:, : len(x[0]) // 2])
    sums.add(x[:, len(x[0]) // 2 :], y[:, len(x[0]) // 2 :])
    return sums


@pytest.mark.parametrize("groups", [1, 3])
def test_the_fit_is_that_of_augmented_least_squares(groups: int) -> None:
    """Damping is the same as rows ``sqrt(d) I`` with the old weights as targets; the bias has none."""
    random = np.random.default_rng(0)
    x, held = (with_ones(rows(n, groups, 6, seed)) for n, seed in ((80, 1), (40, 2)))
    true, old = random.normal(size=(groups, 7, 4)), random.normal(size=(groups, 7, 4))
    y, wanted = (each @ true + random.normal(size=(groups, each.shape[1], 4)) for each in (x, held))
    found = fit(sums_of(x, y), sums_of(held, wanted), old, bias=True)
    assert found.damping in DAMPINGS
    everything, targets = np.concatenate([x, held], axis=1), np.concatenate([y, wanted], axis=1)
    for group in range(groups):
        design, target = everything[group], targets[group]
        strength = found.damping * np.mean((design[:, :6] ** 2).sum(axis=0))
        ridge = np.sqrt(strength) * np.eye(7)[:6]
        augmented = np.concatenate([design, ridge])
        aims = np.concatenate([target, ridge @ old[group]])
        expected = np.linalg.lstsq(augmented, aims, rcond=None)[0]
        np.testing.assert_allclose(found.weight[group], expected, rtol=1e-6, atol=1e-8)


def test_errors_are_those_of_the_rows() -> None:
    x, w = rows(50, 2, 5, 3), np.random.default_rng(4).normal(size=(2, 5, 3))
    y = np.random.default_rng(5).normal(size=(2, 50, 3))
    assert sums_of(x, y).error(w) == pytest.approx(float(((x @ w - y) ** 2).sum()))


def test_a_perfect_weight_is_left_alone() -> None:
    x, w = rows(60, 1, 4, 6), np.random.default_rng(7).normal(size=(1, 4, 2))
    noisy = x @ w + np.random.default_rng(8).normal(size=(1, 60, 2))
    held = rows(60, 1, 4, 9)
    found = fit(sums_of(x, noisy), sums_of(held, held @ w), w, bias=False)
    assert found.damping is None
    np.testing.assert_array_equal(found.weight, w)
    assert found.before == found.after


def test_few_rows_are_damped() -> None:
    """With fewer rows than unknowns an undamped fit would be worthless; held-out rows see to it."""
    random = np.random.default_rng(10)
    x, held, true = rows(8, 1, 20, 11), rows(200, 1, 20, 12), random.normal(size=(1, 20, 3))
    old = true + 0.1 * random.normal(size=true.shape)
    y = x @ true + random.normal(size=(1, 8, 3))
    found = fit(sums_of(x, y), sums_of(held, held @ true), old, bias=False)
    assert found.after <= found.before
    undamped = np.linalg.lstsq(x[0], y[0], rcond=None)[0]
    assert found.after < float(((held[0] @ undamped - held[0] @ true[0]) ** 2).sum())


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    x = with_ones(np.zeros((1, 30, 3)))
    y = np.full((1, 30, 2), 5.0)
    found = fit(sums_of(x, y), sums_of(x, y), np.zeros((1, 4, 2)), bias=True)
    np.testing.assert_allclose(found.weight[0, 3], 5.0)
    assert np.isfinite(found.weight).all()
