"""Sums of signs: the optimum by brute force, exact recovery, errors that never rise, whole numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.reconstruct.binary import Binary, binarize, binarize_integers, damped, join
from onnxslim.reconstruct.blocks import View
from onnxslim.reconstruct.gptq import output_error

VIEWS = (View(1, 24, 5), View(5, 24, 1), View(3, 24, 4), View(4, 24, 2, 8), View(1, 24, 5, 3))


def weights(view: View, seed: int = 0) -> np.ndarray:
    shape = (view.outer, view.length, view.inner)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def moments(length: int, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(64, length)) @ np.random.default_rng(seed + 1).normal(
        size=(length, length)
    )
    return np.asarray(damped(x.T @ x)[0])


def squared(weight: np.ndarray, form: Binary) -> float:
    return float(np.square(weight.astype(np.float64) - form.decode()).sum())


def summed(form: Binary) -> np.ndarray:
    """The weight, element by element."""
    _, outer, blocks, block, inner = form.bits.shape
    found = np.zeros((outer, blocks, block, inner), np.float32)
    for at in np.ndindex(*found.shape):
        for basis in range(form.bases):
            o, b, _, i = at
            scale = np.float32(form.scale[basis, o, b, 0, i])
            found[at] += scale if form.bits[(basis, *at)] else -scale
    return found.reshape(form.shape)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("bases", [1, 2, 3, 4])
def test_what_is_decoded_is_the_sum_of_signs_times_scales(view: View, bases: int) -> None:
    form = binarize(weights(view), view, bases)
    assert form.bases == bases and form.scale.dtype == np.float16
    np.testing.assert_array_equal(form.decode(), summed(form))
    assert form.nbytes == -(-bases * weights(view).size // 8) + form.scale.nbytes


def test_one_basis_is_the_optimum() -> None:
    weight = weights(View(1, 7, 1)).ravel()
    least = min(
        np.square(weight - (weight @ signs / 7) * signs).sum()
        for signs in map(np.array, itertools.product((-1.0, 1.0), repeat=7))
    )
    assert squared(weight, binarize(weight, View(1, 7, 1))) == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize("bases", [2, 3])
def test_a_weight_that_is_a_sum_of_signs_is_found_again(bases: int) -> None:
    rng, scales = np.random.default_rng(3), (4.0, 2.0, 1.0)[:bases]
    weight = sum(scale * rng.choice([-1.0, 1.0], (40, 6)) for scale in scales).astype(np.float32)
    form = binarize(weight, View(1, 40, 6), bases)
    np.testing.assert_array_equal(form.decode(), weight)
    assert (np.diff(form.scale.astype(float), axis=0) <= 0).all(), "the larger scales come first"


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(VIEWS), st.integers(1, 4), st.integers(0, 1000))
def test_fitting_never_raises_the_error(view: View, bases: int, seed: int) -> None:
    weight, known = weights(view, seed), moments(view.length, seed + 1)
    rest = view.columns(weight).reshape(view.shape[1], view.shape[2], -1).astype(np.float64)
    for _ in range(bases):  # the greedy start
        rest = rest - np.where(rest >= 0, 1, -1) * np.abs(rest).mean(axis=1, keepdims=True)
    alone = binarize(weight, view, bases)
    assert squared(weight, alone) <= np.square(rest).sum() * 1.001 + 1e-9  # scales are float16
    fitted = binarize(weight, view, bases, known)
    before = output_error(weight, alone.decode(), view, known)
    assert output_error(weight, fitted.decode(), view, known) <= before * 1.001 + 1e-9


def test_fitting_to_the_inputs_lowers_the_error_of_the_output() -> None:
    view = View(1, 48, 12)
    weight, known = weights(view), moments(48)
    errors = [
        output_error(weight, binarize(weight, view, 2, each).decode(), view, known) for each in (None, known)
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("bases", [1, 3])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_channels_of_zeros_stay_zero_whatever_the_sign_of_zero(bases: int, zero: float) -> None:
    weight = weights(View(3, 24, 1)).reshape(3, 24)
    weight[1] = zero
    for known in (None, moments(24)):
        decoded = binarize(weight, View(3, 24, 1), bases, known).decode()
        assert not decoded[1].any() and not np.signbit(decoded[1]).any()
        assert decoded[0].all() and decoded[2].all()


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_scales_that_half_precision_has_not_are_single(factor: float) -> None:
    view = View(1, 24, 5)
    form = binarize(weights(view) * np.float32(factor), view, 2)
    assert form.scale.dtype == np.float32
    assert squared(weights(view) * factor, form) < 0.2 * np.square(weights(view) * factor).sum()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(VIEWS), st.integers(1, 4), st.integers(0, 1000), st.integers(0, 127))
def test_whole_numbers_stay_inside_of_int8(view: View, bases: int, seed: int, top: int) -> None:
    shape = (view.outer, view.length, view.inner)
    weight = np.random.default_rng(seed).integers(-top, top + 1, shape).astype(np.int8)
    form = binarize_integers(weight, view, bases)
    assert form.is_integer and form.scale.astype(int).sum(axis=0).max() <= 127
    np.testing.assert_array_equal(form.decode(), summed(form).astype(np.int8))


def test_parts_are_joined_one_after_the_other() -> None:
    weight = weights(View(6, 24, 1)).reshape(6, 24)
    whole = binarize(weight, View(6, 24, 1), 2)
    parts = [binarize(half, View(3, 24, 1), 2) for half in np.split(weight, 2)]
    np.testing.assert_array_equal(join(parts, (6, 24)).decode(), whole.decode())


def test_damping_is_a_share_of_the_mean() -> None:
    known = moments(8)
    added = [each - known for each in damped(known)]
    assert all(np.allclose(each, np.eye(8) * each[0, 0]) for each in added)
    assert added[0][0, 0] < added[1][0, 0] < added[2][0, 0] <= known.diagonal().mean()
