"""Vectors out of tables: against brute force and the plain form of the papers, and against single values."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.reconstruct.blocks import View, round_blocks
from onnxslim.reconstruct.gptq import output_error
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.reconstruct.vectors import (
    VectorCodebook,
    learn_vectors,
    nearest_vectors,
    share_by_outputs,
    share_vectors,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def looked_up(book: VectorCodebook) -> np.ndarray:
    """Value by value."""
    outer, spaces, inner = book.codes.shape
    vector = book.table.shape[2]
    found = np.empty((outer, spaces * vector, inner), np.float32)
    for o, k, i in np.ndindex(*found.shape):
        table = book.table[k // vector % len(book.table)]
        found[o, k, i] = np.float32(table[book.codes[o, k // vector, i], k % vector]) * np.float32(
            book.scale[o, i]
        )
    return found.reshape(book.shape)


@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("view", [View(6, 24, 5), View(1, 144, 5), View(30, 24, 1)])
@pytest.mark.parametrize("chunk", [64, 1 << 21])
def test_the_parts_are_where_they_belong(
    view: View, spaces: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxslim.reconstruct.vectors._ELEMENTS", chunk)
    monkeypatch.setattr("onnxslim.reconstruct.vectors._SCORES", chunk)
    weight = normal(6, 24, 5) * np.geomspace(1, 1e4, 6, dtype=np.float32)[:, None, None]
    book = share_vectors(weight, view, 16, 4, spaces=spaces)
    assert book.codes.shape == (view.outer, view.length // 4, view.inner)
    assert book.table.shape == ((view.length // 4 if spaces else 1), 16, 4)
    assert (book.bits, book.scale.dtype) == (4, np.float16)
    np.testing.assert_array_equal(book.decode(), looked_up(book))
    assert book.nbytes == 90 + book.table.size * 2 + 2 * view.outer * view.inner
    assert sqnr_db(weight, book.decode()) > 4


def test_the_nearest_vector_and_the_best_scale() -> None:
    """Of all vectors of the table; scales by a fine grid around them."""
    weight = normal(40, 12) * np.geomspace(0.1, 10, 40, dtype=np.float32)[:, None]
    book = share_vectors(weight, View(40, 12, 1), 8, 2)
    table = book.table[0].astype(np.float64)
    for row, codes, scale in zip(weight, book.codes[..., 0], book.scale[:, 0], strict=True):
        made = table[codes].reshape(-1)
        error = np.square(row - float(scale) * made).sum()
        around = float(scale) * np.linspace(0.9, 1.1, 201)
        assert error <= min(np.square(row - each * made).sum() for each in around) * 1.001
    unit = weight.reshape(-1, 2)
    distance = np.square(unit[:, None] - table).sum(axis=2)
    np.testing.assert_array_equal(nearest_vectors(unit, table), distance.argmin(axis=1))


def test_centers_are_the_means_of_what_is_nearest_to_them() -> None:
    values = normal(3000, 4)
    centers = learn_vectors(values, 8)
    distance = np.square(values[:, None] - centers).sum(axis=2)
    codes = distance.argmin(axis=1)
    means = [values[codes == at].mean(axis=0) for at in range(8)]
    np.testing.assert_allclose(centers, means, atol=0.08)  # the steps are few
    assert len(np.unique(codes)) == 8
    few = np.float32([[1, 2], [3, 4], [5, 6]])
    learned = learn_vectors(few[np.random.default_rng(0).integers(0, 3, 50)], 16)
    assert {tuple(row) for row in few} <= {tuple(row) for row in learned.tolist()}
    assert learn_vectors(few[:1], 4).tolist() == [[1, 2]] * 4


@pytest.mark.parametrize(("vector", "bits", "gained"), [(2, 4, 0.5), (4, 2, 1.4)])
def test_better_than_even_levels_of_as_many_bits(vector: int, bits: int, gained: float) -> None:
    weight, view = normal(512, 512), View(512, 512, 1)
    ours, even = share_vectors(weight, view, 256, vector), round_blocks(weight, view.blocked(128), bits)
    assert ours.nbytes < even.nbytes
    assert sqnr_db(weight, ours.decode()) > sqnr_db(weight, even.decode()) + gained


def test_tables_for_each_space_where_spaces_differ() -> None:
    """At each place of a row there are 16 vectors, 64 together."""
    random = np.random.default_rng(0)
    known = [normal(16, 4, seed=at) for at in range(4)]
    known = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in known]
    weight = np.concatenate([each[random.integers(0, 16, 2000)] for each in known], axis=1)
    one, each = (share_vectors(weight, View(2000, 16, 1), 16, 4, spaces=s) for s in (False, True))
    assert sqnr_db(weight, each.decode()) > 20 > 10 > sqnr_db(weight, one.decode())


def test_odd_rows() -> None:
    """Rows of zeros, tiny and huge ones: scales then leave the range of float16."""
    weight = normal(32, 16)
    weight[3] = 0
    plain = share_vectors(weight, View(32, 16, 1), 16, 4)
    assert not plain.decode()[3].any() and plain.scale.dtype == np.float16
    weight[4] *= np.float32(1e-20)
    weight[5] *= np.float32(1e15)
    book = share_vectors(weight, View(32, 16, 1), 16, 4)
    assert book.scale.dtype == np.float32 and np.isfinite(book.decode()).all()
    for row in (4, 5, 6):
        assert sqnr_db(weight[row], book.decode()[row]) > 1


def naive(weight: np.ndarray, moments: np.ndarray, table: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """GPTVQ, column by column, from the inverse of what is left of the moments (no Cholesky factor)."""
    length, vector = len(moments), table.shape[1]
    inverse = np.linalg.inv(moments + 0.01 * np.diag(moments).mean() * np.eye(length))
    result = np.empty(weight.shape)
    for column in range(weight.shape[1]):
        left, remaining, width = weight[:, column].astype(np.float64), inverse.copy(), float(scale[column])
        for start in range(0, length, vector):
            at = np.arange(start, start + vector)
            metric = np.linalg.inv(remaining[np.ix_(at, at)])
            errors = left[at] - width * table
            best = np.einsum("ni,ij,nj->n", errors, metric, errors).argmin()
            result[at, column] = width * table[best]
            taken = remaining[:, at] @ metric
            left -= taken @ errors[best]
            remaining -= taken @ remaining[at]
    return result


@pytest.mark.parametrize("vector", [2, 4])
def test_the_plain_form(vector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = np.random.default_rng(7).normal(size=(48, 48))
    x = np.random.default_rng(0).normal(size=(200, 48)) @ mix + 0.5
    weight, view = normal(48, 5, seed=3), View(1, 48, 5)
    for lazy in (8, 128):
        monkeypatch.setattr("onnxslim.reconstruct.gptq._LAZY", lazy)
        known = share_vectors(weight, view, 16, vector)
        book = share_by_outputs(weight, view, x.T @ x, known)
        table, scale = book.table[0].astype(np.float64), book.scale.reshape(-1)
        np.testing.assert_allclose(book.decode(), naive(weight, x.T @ x, table, scale), rtol=1e-5, atol=1e-6)


def test_outputs_are_nearer_with_moments() -> None:
    mix = np.random.default_rng(7).normal(size=(64, 64))
    mix *= np.geomspace(0.3, 3, 64)
    x, other = (np.random.default_rng(seed).normal(size=(2000, 64)) @ mix for seed in (0, 1))
    weight, view = normal(64, 300), View(1, 64, 300)
    plain = share_vectors(weight, view, 64, 4)
    ours = share_by_outputs(weight, view, x.T @ x, plain)
    errors = [output_error(weight, book.decode(), view, other.T @ other) for book in (ours, plain)]
    assert errors[0] < 0.9 * errors[1]
