"""States against numpy in float64 on the raw values; merging never changes a bit of the histogram."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.calibration.joined import joined, separated
from onnxslim.calibration.moments import Moments, Products
from onnxslim.calibration.observers import BINS, Histogram, TensorState

RNG = np.random.default_rng(0)

DISTRIBUTIONS = {
    "normal": RNG.standard_normal(20000),
    "relu": np.maximum(RNG.standard_normal(20000), 0),
    "outliers": np.concatenate([RNG.standard_normal(20000), [900.0, -3.0]]),
    "laplace": RNG.laplace(size=20000),
    "uniform": RNG.uniform(2, 6, 20000),
    "tiny": RNG.standard_normal(5000) * 1e-30,
    "subnormal": RNG.standard_normal(5000) * 1e-42,
    "huge": RNG.standard_normal(5000) * 1e37,
    "mask": np.where(RNG.random(5000) < 0.3, np.finfo(np.float32).min, 0.0),
    "constant": np.full(50, 3.7),
    "nearly constant": 1e6 + np.arange(50) * 0.125,
    "zeros": np.zeros(50),
    "one": np.array([-0.25]),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_histogram_counts_every_value_in_its_bin(name: str, dtype: type) -> None:
    values = DISTRIBUTIONS[name].astype(dtype)
    histogram = Histogram.of(values)
    exact = values.astype(np.float64)
    assert histogram.low == exact.min() and histogram.high == exact.max()
    assert histogram.total == values.size and len(histogram.counts) <= BINS
    if len(histogram.counts) > 1:
        assert len(histogram.counts) > BINS // 2 - 1 or name in ("mask", "subnormal")
    index = np.floor(exact / histogram.width).astype(np.int64) - histogram.first
    expected = np.bincount(index, minlength=len(histogram.counts))
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.edges[0] <= histogram.low and histogram.high < histogram.edges[-1]


def test_the_largest_negative_number_is_in_the_last_bin() -> None:
    histogram = Histogram.of(np.array([-1e6, -5e-324]))  # scaled down it becomes -0.0
    assert histogram.counts[0] == histogram.counts[-1] == 1 and histogram.total == 2


def identical(a: Histogram, b: Histogram) -> bool:
    same = (a.low, a.high, a.exponent, a.first) == (b.low, b.high, b.exponent, b.first)
    return same and np.array_equal(a.counts, b.counts)


FLOATS = st.floats(-1e6, 1e6, width=32) | st.floats(-(2.0**-20), 2.0**-20, width=32) | st.just(0.0)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(FLOATS, max_size=12), min_size=1, max_size=6))
def test_any_grouping_gives_the_same_histogram(parts: list[list[float]]) -> None:
    arrays = [np.array(part, np.float32) for part in parts]
    whole = Histogram.of(np.concatenate(arrays))
    left = Histogram.empty()
    for array in arrays:
        left = left.merge(Histogram.of(array))
    right = Histogram.empty()
    for array in reversed(arrays):
        right = Histogram.of(array).merge(right)
    assert identical(left, whole) and identical(right, whole)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats(dtype: type) -> None:
    values = RNG.standard_normal((4, 6)).astype(dtype)
    state = TensorState.of(values, 1)
    wide = values.astype(np.float32)
    assert identical(state.histogram, Histogram.of(wide)) and state.moments is not None
    np.testing.assert_allclose(state.moments.mean, wide.mean(0), rtol=1e-5, atol=1e-6)


def reference(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wide = np.moveaxis(values.astype(np.float64), axis, 0).reshape(values.shape[axis], -1)
    return wide.mean(1), wide.var(1), np.abs(wide).mean(1)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 5, 7, 9), 1), ((1, 4, 200, 200), 1), ((2, 300, 5), -1), ((1000, 6), 1), ((8,), 0), ((4, 1, 1), 1)],
)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_moments_match_float64(shape: tuple[int, ...], axis: int, offset: float) -> None:
    values = (RNG.standard_normal(shape) + offset).astype(np.float32)
    moments = Moments.of(values, axis)
    mean, variance, mean_abs = reference(values, axis)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments.variance, variance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moments.mean_abs, mean_abs, rtol=1e-6, atol=1e-6)


def test_moments_of_parts_merge_to_those_of_the_whole() -> None:
    parts = [(RNG.standard_normal((n, 4, 6)) * 3 + 50).astype(np.float32) for n in (1, 7, 30, 2)]
    merged = Moments.of(parts[0], 1)
    for part in parts[1:]:
        merged = merged.merge(Moments.of(part, 1))
    mean, variance, mean_abs = reference(np.concatenate(parts), 1)
    assert merged.count == 40 * 6
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(merged.variance, variance, rtol=1e-4)
    np.testing.assert_allclose(merged.mean_abs, mean_abs, rtol=1e-6)


def test_moments_of_masks_do_not_overflow() -> None:
    values = np.full((2, 3, 500), np.finfo(np.float32).min)
    moments = Moments.of(values, 1)
    np.testing.assert_allclose(moments.mean, values.astype(np.float64).mean((0, 2)))
    assert np.isfinite(moments.m2).all()


def test_empty_tensors_change_nothing() -> None:
    some = TensorState.of(np.ones((1, 3, 2), np.float32), 1)
    none = TensorState.of(np.ones((1, 3, 0), np.float32), 1)
    for merged in (some.merge(none), none.merge(some)):
        assert identical(merged.histogram, some.histogram)
        assert merged.moments is not None and merged.moments.mean.tolist() == [1, 1, 1]


def test_ragged_channels_drop_the_moments_only() -> None:
    merged = TensorState.of(np.ones((1, 3), np.float32), 1).merge(
        TensorState.of(np.ones((1, 4), np.float32), 1)
    )
    assert merged.moments is None and merged.histogram.total == 7
    assert merged.merge(TensorState.of(np.ones((1, 3), np.float32), 1)).moments is None


@pytest.mark.parametrize(("shape", "axis"), [((3, 5, 7, 2), 1), ((9000, 4), -1), ((2, 3, 6), 2), ((5,), 0)])
def test_products_match_float64(shape: tuple[int, ...], axis: int) -> None:
    values = (RNG.standard_normal(shape) * 3 + 100).astype(np.float32)
    products = Products.of(values, axis)
    rows = np.moveaxis(values.astype(np.float64), axis, 0).reshape(shape[axis], -1)
    np.testing.assert_allclose(products.matrix, rows @ rows.T, rtol=1e-12)
    assert products.count == rows.shape[1] and products.matrix.dtype == np.float64
    twice = products.merge(products)
    np.testing.assert_array_equal(twice.matrix, 2 * products.matrix)
    assert twice.count == 2 * products.count


def test_products_are_dropped_where_channels_differ() -> None:
    states = [TensorState.of(np.ones((2, n), np.float32), -1, products=True) for n in (3, 4)]
    assert states[0].products is not None and states[0].merge(states[1]).products is None


def test_states_survive_as_arrays() -> None:
    values = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    state = TensorState.of(values, 1, products=True)
    whole = {
        "none": TensorState.of(values[:0], 1),
        "some": state,
        "no channels": TensorState.of(values, None),
    }
    apart = separated(joined(whole))
    assert list(apart) == list(whole) and apart["no channels"].moments is None
    again = apart["some"]
    assert identical(again.histogram, state.histogram) and again.extremes == state.extremes
    assert again.moments is not None and state.moments is not None
    assert again.moments.m2.tobytes() == state.moments.m2.tobytes()
    assert again.products is not None and state.products is not None
    assert again.products.matrix.tobytes() == state.products.matrix.tobytes()
