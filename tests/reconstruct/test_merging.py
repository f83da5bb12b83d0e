"""Mixing of channels against least squares on the rows themselves, sampling, and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim.reconstruct.merging import (
    into_many,
    into_one,
    pair_errors,
    pair_order,
    position_moments,
    rectified_moments,
)

Array = np.ndarray


def inputs(rows: int = 400, atoms: int = 6, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rows, atoms)) @ random.normal(size=(atoms, atoms))
    return np.maximum(mixed + 0.5, 0)


def moments(x: Array) -> Array:
    ones = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return ones.T @ ones


@pytest.mark.parametrize("constant", [False, True])
def test_sums_are_the_least_squares_of_the_rows(constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxslim.reconstruct.merging._DAMPING", 0.0)
    x, kept, gone = inputs(), np.array([0, 2, 5]), np.array([1, 3, 4])
    known = np.concatenate([x[:, kept], np.ones((len(x), 1))], axis=1) if constant else x[:, kept]
    wanted = np.linalg.lstsq(known, x[:, gone], rcond=None)[0].T
    found = into_many(moments(x), kept, gone, constant=constant)
    np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, rtol=1e-4, atol=1e-6)
    assert constant or not found[:, -1].any()


def test_damping_keeps_equal_channels_from_cancelling() -> None:
    x = inputs()
    x[:, 1] = x[:, 0] + 1e-9 * x[:, 2]
    found = into_many(moments(x), np.array([0, 1]), np.array([3]), constant=True)
    assert np.abs(found).max() < 10


@pytest.mark.parametrize("constant", [False, True])
def test_multiples_and_their_errors(constant: bool) -> None:
    x, weights = inputs(), np.random.default_rng(1).normal(size=(6, 4))
    errors = pair_errors(moments(x), weights, constant=constant)
    for j, k in itertools.permutations(range(6), 2):
        known = np.stack([x[:, k], np.ones(len(x))], axis=1) if constant else x[:, [k]]
        solution = np.linalg.lstsq(known, x[:, j], rcond=None)[0]
        lost = np.sum((x[:, j] - known @ solution) ** 2) * np.sum(weights[j] ** 2)
        assert errors[j, k] == pytest.approx(lost, rel=1e-6)
        found = into_one(moments(x), np.array([k]), np.array([j]), np.array([0]), constant=constant)
        np.testing.assert_allclose(found[0, : len(solution)], solution, rtol=1e-6)
    assert np.isinf(np.diag(errors)).all()


def test_moments_of_positions_are_sums_over_windows() -> None:
    """Two groups of three inputs; an atom is seen at two positions."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 50, 6))
    ones = np.concatenate([x, np.ones((2, 50, 1))], axis=2)
    rows = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]])
    found = position_moments(ones.swapaxes(1, 2) @ ones, rows)
    for a, b in itertools.product(range(6), repeat=2):
        wanted = sum(
            x[rows[a, t] // 6, :, rows[a, t] % 6] @ x[rows[b, t] // 6, :, rows[b, t] % 6]
            for t in range(2)
            if rows[a, t] // 6 == rows[b, t] // 6
        )
        assert found[a, b] == pytest.approx(wanted, abs=1e-9)
    assert found[-1, -1] == 100


def test_the_kernel_is_what_sampling_finds() -> None:
    random = np.random.default_rng(0)
    weights = random.normal(size=(5, 3))
    x = np.maximum(random.normal(size=(1_000_000, 3)) @ weights.T, 0)
    np.testing.assert_allclose(rectified_moments(weights), moments(x) / len(x), atol=0.02)
    straight = rectified_moments(weights, rectified=False)
    np.testing.assert_allclose(straight[:-1, :-1], weights @ weights.T)
    assert np.isfinite(rectified_moments(np.zeros((2, 3)))).all()


def test_pairs_go_from_the_cheapest() -> None:
    """Replayed one by one; nothing is merged into what is gone, and a target stays while it can."""
    errors = np.random.default_rng(3).random((9, 9))
    np.fill_diagonal(errors, np.inf)
    score, gone, locked, total = pair_order(errors), [], set[int](), 0.0
    while True:
        free = [
            (errors[j, k], j, k)
            for j, k in itertools.permutations(range(9), 2)
            if j not in gone and k not in gone and j not in locked
        ]
        if not free:
            break
        cost, j, k = min(free)
        total += cost
        assert score[j] == pytest.approx(total)
        gone.append(j)
        locked.add(k)
    assert np.isinf(score[[at for at in range(9) if at not in gone]]).all()
