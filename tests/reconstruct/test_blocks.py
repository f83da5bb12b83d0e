"""Blocks of few bits against brute force and plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.reconstruct.blocks import Coded, View, round_blocks, round_rows


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def decoded(coded: Coded) -> np.ndarray:
    """Value by value, in float64."""
    out = np.empty(coded.codes.shape)
    for index in np.ndindex(*coded.codes.shape):
        group = (index[0], index[1], 0, index[3])
        zero = coded.zero[group] if coded.zero.size > 1 else coded.zero[0, 0, 0, 0]
        out[index] = (int(coded.codes[index]) - int(zero)) * float(coded.scale[group])
    return out.reshape(coded.shape)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("shape", "view"), [((24, 6), View(1, 24, 6)), ((6, 2, 3, 3), View(6, 18, 1)), ((2, 8, 3), View(2, 8, 3))]
)
def test_what_is_decoded(bits: int, symmetric: bool, shape: tuple[int, ...], view: View) -> None:
    weight = normal(*shape)
    coded = round_blocks(weight, view.blocked(4), bits, symmetric=symmetric)
    assert coded.decode().dtype == np.float32 and coded.codes.max() < 2**bits
    np.testing.assert_array_equal(coded.decode(), decoded(coded).astype(np.float32))
    assert np.abs(coded.decode() - weight).max() <= np.abs(coded.scale.astype(float)).max() * (
        0.51 + 0.4 * 2 ** (bits - 1)  # clipped at most at 0.6 of the range
    )


def test_blocks_lie_along_the_sum() -> None:
    weight = np.ones((64, 3), np.float32)
    weight[32:] *= 1000
    coded = round_blocks(weight, View(1, 64, 3).blocked(32), 4)
    assert coded.scale.shape == (1, 2, 1, 3)
    np.testing.assert_allclose(coded.decode(), weight, rtol=2e-3)


@pytest.mark.parametrize("length, block, expected", [(64, 0, 64), (64, 100, 64), (96, 32, 32), (7, 4, 7)])
def test_the_nearest_divisor(length: int, block: int, expected: int) -> None:
    assert View(1, length, 1).blocked(block).block == expected


@pytest.mark.parametrize("symmetric", [True, False])
def test_as_good_as_a_brute_force_over_scales_and_zero_points(symmetric: bool) -> None:
    rows = normal(20, 16)
    codes, scale, zero = round_rows(rows, 4, symmetric)
    errors, least = 0.0, 0.0
    for row, code, s, z in zip(rows, codes, scale, zero, strict=True):
        found = float(np.sum((row - (code.astype(float) - z) * s) ** 2))
        peak = np.abs(row).max()
        best = min(
            float(np.sum((row - (np.clip(np.rint(row / t) + o, 0, 15) - o) * t) ** 2))
            for step in np.linspace(0.3, 1.1, 161) * peak / 7
            for t in (step, -step)
            for o in ([8] if symmetric else range(16))
        )
        errors, least = errors + found, least + best
        plain = np.rint(row / (peak / 7)) * (peak / 7)
        assert found <= float(np.sum((row - plain) ** 2)) + 1e-6 or not symmetric
    assert errors <= 1.4 * least


def test_importance_lowers_the_error_where_it_counts() -> None:
    weight, importance = normal(32, 50), np.geomspace(1, 1000, 32)
    view = View(1, 32, 50)

    def error(coded: Coded) -> float:
        return float(np.sum((coded.decode() - weight) ** 2 * importance[:, None]))

    assert error(round_blocks(weight, view, 4, importance=importance)) < 0.9 * error(
        round_blocks(weight, view, 4)
    )


@pytest.mark.parametrize("factor", [1e-12, 1e30])
def test_scales_beyond_float16_are_float32(factor: float) -> None:
    weight = normal(32, 4) * np.float32(factor)
    coded = round_blocks(weight, View(1, 32, 4), 4)
    assert coded.scale.dtype == np.float32
    np.testing.assert_allclose(coded.decode(), weight, atol=factor)
    assert round_blocks(normal(32, 4), View(1, 32, 4), 4).scale.dtype == np.float16


def test_zeros_stay_zero() -> None:
    for symmetric in (True, False):
        coded = round_blocks(np.zeros((8, 2), np.float32), View(1, 8, 2), 4, symmetric=symmetric)
        assert not coded.decode().any() and np.isfinite(coded.scale.astype(float)).all()


@pytest.mark.parametrize(("bits", "furthest"), [(4, 27), (2, 128)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_become_integers(bits: int, furthest: int, symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (64, 50)).astype(np.int8)
    coded = round_blocks(weight, View(1, 64, 50).blocked(8), bits, symmetric=symmetric)
    assert coded.is_integer and coded.decode().dtype == np.int8
    np.testing.assert_array_equal(coded.decode(), decoded(coded))  # nothing wraps around
    assert np.abs(coded.decode().astype(int) - weight).max() <= furthest


def test_integers_of_few_levels_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    few = (rng.integers(-7, 8, (64, 10)) * 18).astype(np.int8)
    np.testing.assert_array_equal(round_blocks(few, View(1, 64, 10), 4).decode(), few)


def test_bytes() -> None:
    coded = round_blocks(normal(64, 10), View(1, 64, 10).blocked(32), 4, symmetric=False)
    assert coded.nbytes == 64 * 10 // 2 + 20 * 2 + 20
