"""Rounding, scales and biases against float64 arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxslim.reconstruct.affine import affine, bias_int32, least_weight_scale
from onnxslim.reconstruct.bias import rounding_shift
from onnxslim.reconstruct.rounding import round_best, round_symmetric, sqnr_db


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1), (2, 3)])
def test_every_weight_is_within_half_a_step(axes: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    rounded = round_symmetric(weight, axes)
    assert rounded.scale.shape == tuple(n if i in axes else 1 for i, n in enumerate(weight.shape))
    step = np.broadcast_to(rounded.scale.astype(np.float64), weight.shape)
    assert (np.abs(weight - rounded.q * step) <= 0.5001 * step).all()
    assert np.abs(rounded.q.astype(int)).max() == 127


def test_zeros_and_denormals_stay_finite() -> None:
    weight = np.array([[0.0, 0.0], [1e-45, -1e-45], [3e38, -3e38]], np.float32)
    decoded = round_symmetric(weight, (0,)).decode()
    assert np.isfinite(decoded).all()
    assert decoded[0].tolist() == [0, 0]
    np.testing.assert_allclose(decoded[2], weight[2], rtol=0.01)


def test_the_best_axis_is_the_one_with_the_spread() -> None:
    weight = np.random.default_rng(1).normal(size=(64, 48)).astype(np.float32)
    assert round_best(weight * np.geomspace(1e-3, 1, 48, dtype=np.float32)).scale.shape == (1, 48)
    assert round_best(weight * np.geomspace(1e-3, 1, 64, dtype=np.float32)[:, None]).scale.shape == (64, 1)


def test_least_scale_is_respected() -> None:
    rounded = round_symmetric(np.ones((2, 2), np.float32), (0,), np.array([[1.0], [0.0]]))
    assert rounded.scale.ravel() == pytest.approx([1.0, 1 / 127])


@pytest.mark.parametrize(("low", "high"), [(-1, 3), (0, 6), (2, 5), (-7, -2), (-1e-3, 4e5), (0, 1e-30)])
def test_affine_holds_zero_and_the_range(low: float, high: float) -> None:
    scale, zero = affine(low, high)
    values = np.linspace(min(low, 0), max(high, 0), 1000)
    levels = np.clip(np.rint(values / np.float64(scale)) + int(zero), 0, 255)
    assert np.abs((levels - int(zero)) * np.float64(scale) - values).max() <= 1.001 * scale
    assert low < 0 or zero == 0


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1e-44), (-math.inf, math.inf), (math.nan, math.nan)])
def test_a_range_without_use_gives_a_valid_scale(low: float, high: float) -> None:
    scale, zero = affine(low, high)
    assert (float(scale), int(zero)) == (1.0, 0)


def test_bias_fits_int32_above_the_least_scale() -> None:
    bias = np.array([1e6, -3.0, 0.0])
    scales = np.maximum(np.array([1e-9, 1e-3, 1e-3]), least_weight_scale(bias, 0.01))
    q, step = bias_int32(bias, 0.01, scales)
    np.testing.assert_allclose(q * step.astype(np.float64), bias, atol=1e-4)
    assert bias_int32(bias, 0.01, np.full(3, 1e-9))[0][0] == 2**31 - 1  # saturates below it


def test_shift_is_the_mean_error_of_a_convolution() -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(5, 3, 2, 2))
    restored = np.round(weight, 1)
    patches = rng.normal(size=(1000, 3, 1, 1)) + np.array([1.0, -2.0, 5.0]).reshape(3, 1, 1)
    inputs = np.broadcast_to(patches, (1000, 3, 2, 2))
    error = np.einsum("nihw,oihw->no", inputs, weight - restored).mean(0)
    shift = rounding_shift(weight, restored, 0, patches.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(shift, error, atol=1e-12)
    assert rounding_shift(weight, restored, 0, np.zeros(4)) is None


def test_sqnr() -> None:
    assert sqnr_db(np.ones(4), np.ones(4)) == math.inf
    assert sqnr_db(np.full(4, 10.0), np.full(4, 9.0)) == pytest.approx(20)
    assert sqnr_db(np.zeros(4), np.ones(4)) == -math.inf
