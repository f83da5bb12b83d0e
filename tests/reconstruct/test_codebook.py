"""Codebooks against brute force over all partitions, and against uniform rounding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.reconstruct.blocks import View
from onnxslim.reconstruct.codebook import Codebook, share


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(weight: np.ndarray, book: Codebook, importance: np.ndarray | float = 1.0) -> float:
    return float(np.sum(importance * (weight.astype(np.float64) - book.decode()) ** 2))


def least_error(values: np.ndarray, mass: np.ndarray, entries: int) -> float:
    """Over all ways to cut the sorted values: some optimum has intervals for clusters."""
    order = np.argsort(values)
    values, mass, best = values[order].astype(np.float64), mass[order], np.inf
    for cuts in itertools.combinations(range(1, len(values)), min(entries, len(values)) - 1):
        total = 0.0
        for start, end in itertools.pairwise((0, *cuts, len(values))):
            run, weight = values[start:end], mass[start:end]
            total += float(np.sum(weight * (run - np.average(run, weights=weight)) ** 2))
        best = min(best, total)
    return best


def uniform_error(row: np.ndarray, entries: int) -> float:
    grid = np.linspace(row.min(), row.max(), entries, dtype=np.float64).astype(np.float32)
    nearest = np.abs(row[:, None].astype(np.float64) - grid).argmin(axis=1)
    return float(np.sum((row.astype(np.float64) - grid[nearest]) ** 2))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("entries", [2, 4])
def test_near_the_best_of_all_partitions(entries: int, weighted: bool) -> None:
    rows = normal(40, 12)
    mass = np.geomspace(0.1, 10, 480).reshape(rows.shape) if weighted else np.ones(rows.shape)
    found, best = [], []
    for row, each in zip(rows, mass, strict=True):
        book = share(row, View(1, 12, 1), entries, importance=each if weighted else None)
        found.append(error(row, book, each))
        best.append(least_error(row, each, entries))
    assert np.all(np.array(found) >= np.array(best) - 1e-6)
    assert sum(found) < 1.15 * sum(best)
    assert np.isclose(found, best, rtol=0.02).mean() > 0.4


@pytest.mark.parametrize(("entries", "published_db"), [(2, 4.40), (4, 9.30), (16, 20.22)])
def test_the_noise_of_a_normal_density(entries: int, published_db: float) -> None:
    """Max, "Quantizing for minimum distortion", 1960."""
    weight = normal(200_000)
    noise = error(weight, share(weight, View(1, weight.size, 1), entries))
    assert -10 * np.log10(noise / float(np.sum(weight.astype(np.float64) ** 2))) == pytest.approx(
        published_db, abs=0.06
    )


@pytest.mark.parametrize("entries", [2, 4, 16, 256])
@pytest.mark.parametrize("length", [1, 2, 5, 37, 300])
def test_never_worse_than_a_uniform_grid(entries: int, length: int) -> None:
    rng = np.random.default_rng(length)
    for weight in (rng.normal(size=length), rng.uniform(size=length), rng.standard_cauchy(size=length)):
        row = weight.astype(np.float32)
        found = error(row, share(row, View(1, length, 1), entries))
        assert found <= 1.02 * uniform_error(row, entries) + 1e-12


@pytest.mark.parametrize("view", [View(6, 20, 5), View(6, 20, 5, 10), View(1, 600, 1)])
@pytest.mark.parametrize("chunk", [1, 1 << 21])
def test_each_block_has_a_table_of_its_own(view: View, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxslim.reconstruct.codebook._ELEMENTS", chunk)
    weight = normal(6, 20, 5)
    importance = np.abs(normal(6, 20, 5, seed=1)) + 0.1
    book = share(weight, view, 4, importance=importance)
    outer, blocks, block, inner = view.shape
    assert book.codes.shape == view.shape and book.table.shape == (outer, blocks, 4, inner)
    expected = np.empty(view.shape, np.float32)
    for o, b, i in itertools.product(range(outer), range(blocks), range(inner)):
        run = weight.reshape(view.shape)[o, b, :, i]
        alone = share(run, View(1, block, 1), 4, importance=importance.reshape(view.shape)[o, b, :, i])
        expected[o, b, :, i] = alone.decode()
        np.testing.assert_array_equal(
            book.decode().reshape(view.shape)[o, b, :, i],
            book.table[o, b, book.codes[o, b, :, i], i].astype(np.float32),
        )
    np.testing.assert_array_equal(book.decode(), expected.reshape(weight.shape))


def test_importance_lowers_the_error_where_it_counts() -> None:
    weight = normal(32, 50)
    importance = np.broadcast_to(np.geomspace(1, 1000, 32)[:, None], weight.shape)
    plain, weighed = (share(weight, View(1, 32, 50), 4, importance=given) for given in (None, importance))
    assert error(weight, weighed, importance) < 0.7 * error(weight, plain, importance)
    assert error(weight, weighed) > error(weight, plain)


@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e30])
def test_few_values_lose_nothing(factor: float) -> None:
    values = (np.array([-3.1, 0, 1e-3, 7.7]) * factor).astype(np.float32)
    weight = np.random.default_rng(0).choice(values, (64, 9))
    book = share(weight, View(1, 64, 9), 4)
    np.testing.assert_array_equal(book.decode(), weight)
    assert book.table.dtype == np.float32
    halves = np.random.default_rng(0).choice(np.float32([1, -2, 0.5, 0]), (64, 9))
    assert share(halves, View(1, 64, 9), 4).table.dtype == np.float16
    np.testing.assert_array_equal(share(halves, View(1, 64, 9), 4).decode(), halves)


def test_a_large_value_does_not_hide_the_others() -> None:
    row = np.append(normal(50), np.float32([1e30, -1e30]))
    found = share(row, View(1, 52, 1), 16).decode()
    np.testing.assert_array_equal(found[-2:], row[-2:])
    assert np.sum((found[:50] - row[:50]) ** 2) < 0.1 * np.sum(row[:50] ** 2)


@given(
    st.lists(
        st.floats(-(2.0**127), 2.0**127, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e-45]),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([2, 4, 16, 256]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_finite_values(values: list[float], entries: int) -> None:
    row = np.array(values, np.float32)
    book = share(row, View(1, row.size, 1), entries)
    decoded = book.decode()
    assert np.isfinite(decoded).all() and decoded.shape == row.shape
    distance = np.abs(row[:, None].astype(np.float64) - book.table.ravel().astype(np.float64))
    np.testing.assert_array_equal(
        np.abs(row.astype(np.float64) - decoded), distance.min(axis=1)
    )  # each has the nearest entry
    if len(set(values)) <= entries:
        assert error(row, book) <= 1e-12 * float(np.sum(row.astype(np.float64) ** 2))


def test_constants_and_bytes() -> None:
    weight = np.full((10, 7), 0.1, np.float32)
    book = share(weight, View(1, 10, 7), 2)
    np.testing.assert_array_equal(book.decode(), weight)
    assert book.nbytes == -(-70 // 8) + 7 * 2 * 4
    assert share(np.zeros((10, 7), np.float32), View(1, 70, 1), 16).nbytes == 35 + 32
