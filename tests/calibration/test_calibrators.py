"""Calibrators against brute force on the raw values."""

from __future__ import annotations

import functools
from typing import get_args

import numpy as np
import pytest

from onnxslim.calibration.calibrators import Method, calibrated_range, entropy, mse, percentile
from onnxslim.calibration.observers import Histogram, TensorState
from onnxslim.errors import OptionError

RNG = np.random.default_rng(7)
DATA = {
    "normal": RNG.standard_normal(8000),
    "relu": np.maximum(RNG.standard_normal(8000), 0),
    "laplace": RNG.laplace(size=8000),
    "outliers": np.concatenate([RNG.standard_normal(8000), [12.0, -25.0]]),
    "relu with outliers": np.concatenate([np.maximum(RNG.standard_normal(8000), 0), [9.0, 30.0]]),
    "silu": (lambda x: x / (1 + np.exp(-x)))(RNG.standard_normal(8000) * 3),
    "away from zero": RNG.uniform(4, 5, 8000),
}


def parts(values: np.ndarray) -> Histogram:
    """The histogram of values that arrived in pieces."""
    histogram = Histogram.empty()
    for piece in np.array_split(values.astype(np.float32), 9):
        histogram = histogram.merge(Histogram.of(piece))
    return histogram


def quantized_mse(values: np.ndarray, low: float, high: float, levels: int = 256) -> float:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (levels - 1)
    zero = np.rint(-low / scale)
    q = np.clip(np.rint(values / scale) + zero, 0, levels - 1)
    return float(((values - (q - zero) * scale) ** 2).mean())


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("percent", [100.0, 99.99, 99.0, 50.0])
def test_percentile(name: str, percent: float) -> None:
    histogram = parts(DATA[name])
    raw = np.sort(DATA[name].astype(np.float32).astype(np.float64))
    tail = (100 - percent) / 200 * len(raw)
    low, high = percentile(histogram, percent)
    # The value below which ``tail`` values lie, to one bin.
    assert abs(low - raw[int(tail)]) <= histogram.width
    assert abs(high - raw[len(raw) - 1 - int(tail)]) <= histogram.width


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("levels", [256, 16])
def test_mse_is_as_good_as_a_search_on_the_values(name: str, levels: int) -> None:
    raw = DATA[name].astype(np.float32).astype(np.float64)
    low, high = mse(parts(raw), levels)
    lows = min(raw.min(), 0) * np.linspace(1, 0.05, 40) if raw.min() < 0 else [0.0]
    best = min(quantized_mse(raw, a, b, levels) for a in lows for b in raw.max() * np.linspace(1, 0.05, 40))
    assert quantized_mse(raw, low, high, levels) <= best * 1.06
    assert quantized_mse(raw, low, high, levels) <= quantized_mse(raw, raw.min(), raw.max(), levels) * 1.001


def test_symmetric_mse() -> None:
    raw = DATA["outliers"]
    low, high = mse(parts(raw), 16, symmetric=True)
    assert low == -high and high < 12


def kl_by_hand(raw: np.ndarray, edges: np.ndarray, levels: int) -> tuple[float, float]:
    """Migacz's algorithm written out with loops over the raw values' counts."""
    counts, _ = np.histogram(raw, edges)
    largest = np.abs(raw).max()
    best, found = np.inf, (raw.min(), raw.max())
    for fraction in np.linspace(1.0, 1 / 64, 127):
        keep = [
            j
            for j in range(len(counts))
            if fraction == 1 or (edges[j] >= -largest * fraction and edges[j + 1] <= largest * fraction)
        ]
        if len(keep) <= levels:
            continue
        p = [float(counts[j]) for j in keep]
        p[0] += float(counts[: keep[0]].sum())
        p[-1] += float(counts[keep[-1] + 1 :].sum())
        q = [0.0] * len(keep)
        for level in range(levels):
            members = [k for k in range(len(keep)) if k * levels // len(keep) == level]
            filled = [k for k in members if counts[keep[k]]]
            for k in filled:
                q[k] = sum(counts[keep[m]] for m in members) / len(filled)
        loss = sum(
            a / sum(p) * np.log((a / sum(p)) / max(b / sum(q), 1e-9)) for a, b in zip(p, q, strict=True) if a
        )
        if loss < best:
            best, found = loss, (edges[keep[0]], edges[keep[-1] + 1])
    return max(found[0], raw.min()), min(found[1], raw.max())


@pytest.mark.parametrize("name", ["normal", "relu with outliers", "outliers"])
def test_entropy(name: str) -> None:
    raw = DATA[name].astype(np.float32).astype(np.float64)
    histogram = parts(raw)
    # Coarser bins keep the reference's loops short; the algorithm sees the same counts.
    step = 4
    first = histogram.first // step
    index = np.arange(histogram.first, histogram.first + len(histogram.counts)) // step - first
    counts = np.bincount(index, histogram.counts).astype(np.int64)
    coarse = Histogram(histogram.low, histogram.high, histogram.exponent + 2, first, counts)
    low, high = entropy(coarse, 64)
    expected = kl_by_hand(raw, coarse.edges, 64)
    assert (low, high) == pytest.approx(expected)


def test_entropy_really_clips_outliers() -> None:
    raw = np.concatenate([RNG.standard_normal(100_000), [40.0]])
    low, high = entropy(parts(raw))
    assert -5 < low < -2.5 and 2.5 < high < 20


@pytest.mark.parametrize("method", get_args(Method))
def test_degenerate_tensors(method: Method) -> None:
    def found(*values: float) -> tuple[float, float]:
        return calibrated_range(TensorState.of(np.array(values, np.float32), None), method)

    assert found() == (0.0, 0.0)
    assert found(0, 0, 0, 0) == (0.0, 0.0)
    assert found(2.5, 2.5, 2.5, 2.5) == (2.5, 2.5)
    assert all(np.isfinite(found(0, np.finfo(np.float32).min)))


@pytest.mark.parametrize("cuts", [[1], [100, 300], [5, 6, 7, 4000]])
def test_moving_average_is_the_mean_of_the_feeds_extremes(cuts: list[int]) -> None:
    feeds = np.split(DATA["outliers"].astype(np.float32), cuts)
    states = [TensorState.of(feed, None) for feed in feeds]
    states.insert(1, TensorState.of(np.zeros(0, np.float32), None))  # a feed without values has no extremes
    for grouped in (
        functools.reduce(TensorState.merge, states),
        functools.reduce(lambda right, left: left.merge(right), reversed(states)),
    ):
        expected = np.mean([[feed.min(), feed.max()] for feed in feeds], axis=0, dtype=np.float64)
        assert calibrated_range(grouped, "moving-average") == pytest.approx(expected, rel=1e-12)


def test_unknown_methods_get_a_suggestion() -> None:
    with pytest.raises(OptionError, match="percentil") as caught:
        calibrated_range(TensorState.of(np.ones(3), None), "percentil")  # type: ignore[arg-type]
    assert caught.value.hint == "did you mean 'percentile'?"
    with pytest.raises(OptionError, match="percentage"):
        calibrated_range(TensorState.of(np.ones(3), None), "percentile", percent=0)
