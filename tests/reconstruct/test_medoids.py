"""Covers by few rows: every promise checked on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.reconstruct.medoids import cover


def check(rows: np.ndarray, tolerance: float, scaled: bool) -> int:
    """The bound holds in exact arithmetic; returns how many bases there are."""
    found = cover(rows, tolerance, scaled=scaled)
    made = found.scale[:, None] * rows[found.base]
    assert made.dtype == np.float32
    lost = np.linalg.norm(rows.astype(np.float64) - made, axis=1)
    assert np.all(lost <= tolerance * np.linalg.norm(rows.astype(np.float64), axis=1) + 1e-300)
    assert np.all(found.base[found.base] == found.base), "a base is itself"
    assert scaled or (found.scale == 1).all()
    return len(np.unique(found.base))


def clusters(count: int, each: int, width: int, spread: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centers = random.normal(size=(count, width))
    rows = np.repeat(centers, each, axis=0) + spread * random.normal(size=(count * each, width))
    return random.permutation(rows).astype(np.float32)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("chunk", [7, 512])
def test_clusters_are_found(scaled: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxslim.reconstruct.medoids._CHUNK", chunk)
    rows = clusters(20, 9, 32, 1e-4)
    assert check(rows, 1e-3, scaled) == 20
    assert check(rows, 1e-6, scaled) == 180, "nothing is that near"
    factors = np.random.default_rng(1).choice([-3, -1, 0.5, 2], (180, 1)).astype(np.float32)
    assert check(rows * factors, 1e-3, True) <= 22
    assert check(rows * factors, 1e-3, False) > 50


def test_as_few_as_a_search_over_all_pairs_allows() -> None:
    """Against a greedy cover that sees all distances at once."""
    rows = clusters(10, 8, 6, 0.05)
    wide = rows.astype(np.float64)
    distance = np.linalg.norm(wide[:, None] - wide[None], axis=2) / np.linalg.norm(wide, axis=1)[:, None]
    near, left, bases = distance <= 0.1, np.ones(len(rows), bool), 0
    while left.any():
        best = (near & left[:, None]).sum(axis=0).argmax()
        left &= ~near[:, best]
        bases += 1
    assert check(rows, 0.1, False) <= 1.5 * bases


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.sampled_from([1e-4, 1e-2, 0.5]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_rows(count: int, width: int, tolerance: float, scaled: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.integers(-2, 3, (count, width)).astype(np.float32)
    rows *= random.choice(np.float32([1e-30, 1.0, 1e30]), (count, 1))
    check(rows, tolerance, scaled)


def test_zeros_are_near_to_zeros_alone() -> None:
    rows = np.array([[0, 0], [1, 2], [0, 0], [1e-30, 0]], np.float32)
    for scaled in (False, True):
        found = cover(rows, 0.9, scaled=scaled)
        assert found.base.tolist()[:3] == [0, 1, 0] and found.base[3] in (1, 3)
