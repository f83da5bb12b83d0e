"""GPTQ against the plain form of its paper, and the promise that it never does harm."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.reconstruct.blocks import Coded, View, round_blocks
from onnxslim.reconstruct.gptq import gptq, output_error, round_by_outputs

Array = np.ndarray


def inputs(rows: int, channels: int, seed: int = 0) -> Array:
    """Correlated, and not centred."""
    mix = np.random.default_rng(7).normal(size=(channels, channels))
    return np.random.default_rng(seed).normal(size=(rows, channels)) @ mix + 0.5


def weights(*shape: int) -> Array:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def naive(weight: Array, moments: Array, scale: Array, zero: int, bits: int, block: int) -> Array:
    """Optimal brain quantization in the given order (Frantar et al., equations 2 and 3), column by column."""
    length = len(moments)
    inverse = np.linalg.inv(moments + 0.01 * np.diag(moments).mean() * np.eye(length))
    result = np.empty(weight.shape)
    for column in range(weight.shape[1]):
        left, remaining = weight[:, column].astype(np.float64), inverse.copy()
        for i in range(length):
            step = float(scale[i // block, column])
            value = (np.clip(np.rint(left[i] / step) + zero, 0, 2**bits - 1) - zero) * step
            result[i, column] = value
            left -= (left[i] - value) / remaining[i, i] * remaining[:, i]
            remaining -= np.outer(remaining[:, i], remaining[i, :]) / remaining[i, i]
            left[i], remaining[i, :], remaining[:, i] = value, 0, 0
            remaining[i, i] = 1
    return result


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("block", [8, 48])
def test_the_plain_form(bits: int, block: int) -> None:
    weight, x = weights(48, 5), inputs(200, 48)
    coded = gptq(weight, View(1, 48, 5, block), x.T @ x, bits)
    scale = coded.scale[0, :, 0].astype(np.float64)
    expected = naive(weight, x.T @ x, scale, 1 << (bits - 1), bits, block)
    np.testing.assert_allclose(coded.decode(), expected, rtol=1e-5, atol=1e-6)


def test_the_lazy_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = weights(96, 4), inputs(300, 96)
    whole = gptq(weight, View(1, 96, 4, 96), x.T @ x, 4)
    monkeypatch.setattr("onnxslim.reconstruct.gptq._LAZY", 7)
    np.testing.assert_array_equal(gptq(weight, View(1, 96, 4, 96), x.T @ x, 4).codes, whole.codes)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("by_activation", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_outputs_of_new_inputs_are_nearer(symmetric: bool, by_activation: bool, bits: int) -> None:
    weight, x, new = weights(64, 40), inputs(2000, 64), inputs(2000, 64, seed=1)
    view = View(1, 64, 40, 32)
    coded = gptq(weight, view, x.T @ x, bits, symmetric=symmetric, by_activation=by_activation)
    nearest = round_blocks(weight, view, bits, symmetric=symmetric)
    error = float(np.sum((new @ (coded.decode() - weight.astype(float))) ** 2))
    assert error < 0.8 * float(np.sum((new @ (nearest.decode() - weight.astype(float))) ** 2))


def test_the_error_is_that_of_the_outputs() -> None:
    weight, x = weights(6, 16), inputs(50, 16)
    view = View(6, 16, 1)  # as in Gemm with transB: outputs first
    coded = round_blocks(weight, view, 3)
    expected = float(np.sum((x @ (coded.decode() - weight).T.astype(float)) ** 2))
    assert output_error(weight, coded.decode(), view, x.T @ x) == pytest.approx(expected)


def test_either_layout_gives_the_same() -> None:
    weight, x = weights(32, 6), inputs(100, 32)
    one = gptq(weight, View(1, 32, 6, 8), x.T @ x, 4).decode()
    other = gptq(np.ascontiguousarray(weight.T), View(6, 32, 1, 8), x.T @ x, 4).decode()
    np.testing.assert_array_equal(one, other.T)


@pytest.mark.parametrize("seed", range(8))
def test_never_worse_than_to_nearest_on_held_out_inputs(seed: int) -> None:
    """Few inputs to fit on, of another kind than those that judge."""
    weight, x = weights(32, 10), inputs(4, 32, seed)
    new = np.random.default_rng(seed).normal(size=(100, 32))
    view = View(1, 32, 10, 8)
    nearest = round_blocks(weight, view, 4)
    coded = round_by_outputs(weight, view, x.T @ x, 4, held_out=new.T @ new)
    harmful = gptq(weight, view, x.T @ x, 4)
    least, found, worse = (
        output_error(weight, each.decode(), view, new.T @ new) for each in (nearest, coded, harmful)
    )
    assert found <= least < worse


def test_moments_of_low_rank_are_damped_and_zeros_are_refused() -> None:
    weight = weights(16, 3)
    one = np.ones((1, 16))
    assert np.isfinite(gptq(weight, View(1, 16, 3), one.T @ one, 4).decode()).all()
    with pytest.raises(np.linalg.LinAlgError):
        gptq(weight, View(1, 16, 3), np.zeros((16, 16)), 4)
    coded: Coded = round_by_outputs(weight, View(1, 16, 3), np.zeros((16, 16)), 4)
    np.testing.assert_array_equal(coded.codes, round_blocks(weight, View(1, 16, 3), 4).codes)


@pytest.mark.parametrize("bits", [2, 4])
def test_whole_numbered_scales_decode_to_int8(bits: int) -> None:
    """The largest scales reach beyond -128 with their lowest code, and what is handed on asks for it."""
    weight = np.random.default_rng(3).choice([-127.4, -120.0, -3.0, 90.0, 127.4], size=(48, 20))
    x = inputs(200, 48) + 8.0  # which hands on much
    view = View(1, 48, 20, 8)
    coded = gptq(weight, view, x.T @ x, bits, whole=True)
    levels = (coded.codes.astype(int) - coded.zero.astype(int)) * coded.scale.astype(int)
    assert levels.min() >= -128 and levels.max() <= 127 and coded.scale.max() > 16
    np.testing.assert_array_equal(coded.decode(), levels.reshape(48, 20))
    nearest = round_blocks(weight, view, bits, whole=True)
    assert output_error(weight, coded.decode(), view, x.T @ x) < output_error(
        weight, nearest.decode(), view, x.T @ x
    )
