"""Tables with scales: against brute force, and against even levels of as many bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.reconstruct.blocks import View, round_blocks
from onnxslim.reconstruct.codebook import Codebook
from onnxslim.reconstruct.gptq import gptq
from onnxslim.reconstruct.scaled_codebook import fit_rows, learn_table, share_by_outputs, share_scaled


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(weight: np.ndarray, decoded: np.ndarray, importance: np.ndarray | float = 1.0) -> float:
    return float(np.sum(importance * (weight.astype(np.float64) - decoded) ** 2))


def looked_up(book: Codebook) -> np.ndarray:
    """Value by value."""
    assert book.scale is not None
    found = np.empty(book.codes.shape, np.float32)
    for o, b, k, i in np.ndindex(*found.shape):
        table, scale = book.table.ravel().astype(np.float32), np.float32(book.scale[o, b, 0, i])
        found[o, b, k, i] = table[book.codes[o, b, k, i]] * scale
    return found.reshape(book.shape)


@pytest.mark.parametrize("view", [View(6, 20, 5, 10), View(1, 600, 1, 30), View(6, 20, 5)])
@pytest.mark.parametrize("chunk", [64, 1 << 21])
def test_the_parts_are_where_they_belong(view: View, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxslim.reconstruct.scaled_codebook._ELEMENTS", chunk)
    weight = normal(6, 20, 5) * np.geomspace(1, 1e4, 6, dtype=np.float32)[:, None, None]
    book = share_scaled(weight, view, 16)
    outer, blocks, _, inner = view.shape
    assert book.codes.shape == view.shape and book.table.size == 16
    assert book.scale is not None and book.scale.shape == (outer, blocks, 1, inner)
    np.testing.assert_array_equal(book.decode(), looked_up(book))
    assert book.nbytes == 300 + 64 + 2 * outer * blocks * inner
    assert error(weight, book.decode()) < 0.05 * error(weight, np.zeros_like(weight))


@pytest.mark.parametrize("weighted", [False, True])
def test_codes_are_the_nearest_and_scales_near_the_best(weighted: bool) -> None:
    """All scales out of a fine grid, all codes."""
    rows, table = normal(30, 6), np.array([-0.9, -0.2, 0.3, 1.0])
    mass = np.geomspace(0.1, 10, 180).reshape(rows.shape) if weighted else np.ones(rows.shape)
    found = fit_rows(rows, table, mass)
    total = 0.0
    for row, each, codes, scale in zip(rows, mass, found.codes, found.scale, strict=True):
        np.testing.assert_array_equal(codes, np.abs(row[:, None] - scale * table).argmin(axis=1))
        grid = np.linspace(-3 * np.abs(row).max(), 3 * np.abs(row).max(), 4001)[:, None, None]
        total += float((each * ((row[:, None] - grid * table) ** 2).min(axis=2)).sum(axis=1).min())
    assert total - 1e-3 <= found.error.sum() < 1.12 * total
    np.testing.assert_allclose(
        found.error, (mass * (rows - found.scale[:, None] * table[found.codes]) ** 2).sum(axis=1), rtol=1e-9
    )


@pytest.mark.parametrize("density", ["normal", "laplace", "uniform"])
def test_better_than_even_levels_at_equal_bytes(density: str) -> None:
    weight = getattr(np.random.default_rng(0), density)(size=(256, 256)).astype(np.float32)
    if density == "uniform":
        weight -= np.float32(0.5)
    view = View(256, 256, 1, 32)
    ours, even = share_scaled(weight, view, 16), round_blocks(weight, view, 4)
    assert abs(ours.nbytes - even.nbytes) <= 64
    gained = 10 * np.log10(error(weight, even.decode()) / error(weight, ours.decode()))
    assert gained > (0.0 if density == "uniform" else 0.8)


def test_importance_lowers_the_error_where_it_counts() -> None:
    weight = normal(32, 64)
    importance = np.broadcast_to(np.tile([1.0, 1000.0], 32), weight.shape)
    plain, weighed = (share_scaled(weight, View(32, 64, 1, 16), 4, importance=i) for i in (None, importance))
    assert error(weight, weighed.decode(), importance) < 0.85 * error(weight, plain.decode(), importance)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e4, 1e30])
def test_any_size_of_numbers(factor: float) -> None:
    weight = (normal(16, 64) * factor).astype(np.float32)
    decoded = share_scaled(weight, View(16, 64, 1, 32), 16).decode()
    signal = float(np.sum((weight / factor).astype(np.float64) ** 2))
    assert np.isfinite(decoded).all() and error(weight / factor, decoded / factor) < 0.02 * signal


@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, 1.0]), min_size=8, max_size=8
    ),
    st.sampled_from([2, 3, 16, 200, 256]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_finite_values(values: list[float], entries: int) -> None:
    weight = np.array(values, np.float32).reshape(2, 4)
    book = share_scaled(weight, View(2, 4, 1, 4), entries)
    decoded = book.decode()
    assert np.isfinite(decoded).all() and book.table.size == entries
    worst = np.abs(weight).max(axis=1, keepdims=True)
    assert np.all(np.abs(decoded - weight) <= 2 * worst), "nothing is invented"


def test_zeros_stay_zeros_and_multiples_cost_nothing() -> None:
    row = normal(1, 8)
    weight = (np.array([[0.0], [1.0], [2.0], [-4.0], [0.25]]) * row).astype(np.float32)
    book = share_scaled(weight, View(5, 8, 1, 8), 16)
    np.testing.assert_array_equal(book.decode()[0], 0)
    np.testing.assert_allclose(book.decode(), weight, rtol=2e-3)
    assert learn_table(np.zeros((3, 4)), 4).tolist() == [0, 0, 0, 0]
    assert (
        list(itertools.chain(*share_scaled(np.zeros((2, 8), np.float32), View(2, 8, 1, 4), 2).decode()))
        == [0] * 16
    )


@pytest.mark.parametrize("view", [View(1, 64, 48, 32), View(12, 64, 4, 16)])
def test_values_chosen_by_outputs_are_nearer_on_new_inputs(view: View) -> None:
    """Than the nearest ones, and than even levels chosen by GPTQ too."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(64, 64)) / 8 + 0.3 * np.eye(64)
    seen, new = (random.normal(size=(2000, 64)) @ mixing + random.normal(size=(2000, 1)) for _ in range(2))
    weight = normal(view.outer, 64, view.inner)
    rows = np.moveaxis(weight, 1, 0).reshape(64, -1).astype(np.float64)

    def lost(decoded: np.ndarray) -> float:
        return float(np.sum((new @ (rows - np.moveaxis(decoded, 1, 0).reshape(64, -1))) ** 2))

    ours = share_by_outputs(weight, view, seen.T @ seen, 16)
    np.testing.assert_array_equal(ours.decode(), looked_up(ours))
    assert lost(ours.decode()) < 0.8 * lost(share_scaled(weight, view, 16).decode())
    assert lost(ours.decode()) < lost(gptq(weight, view, seen.T @ seen, 4).decode())
