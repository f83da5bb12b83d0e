"""States of many tensors as a few arrays, for a pipe or a file.

Runs in the worker process too: imports numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxslim.calibration.moments import Moments, Products
from onnxslim.calibration.observers import BINS, Extremes, Histogram, TensorState

__all__ = ["joined", "separated"]


def joined(states: Mapping[str, TensorState]) -> dict[str, np.ndarray]:
    """The states as arrays, one after the other.

    Example:
        >>> state = TensorState.of(np.array([0.5, 2.0], np.float32), axis=None)
        >>> separated(joined({"x": state}))["x"].histogram.high
        2.0
    """
    kept = list(states.values())
    moments = [state.moments for state in kept if state.moments is not None]
    products = [state.products for state in kept if state.products is not None]
    histograms = [state.histogram for state in kept]
    present = [[state.moments is not None, state.products is not None] for state in kept]
    return {
        "names": np.frombuffer(json.dumps(list(states)).encode(), np.uint8),
        "present": np.array(present, np.uint8).reshape(-1, 2),
        "range": _table([[h.low, h.high, *_pair(s.extremes)] for h, s in zip(histograms, kept, strict=True)]),
        "bins": _table(
            [
                [h.exponent, h.first, len(h.counts), s.extremes.feeds]
                for h, s in zip(histograms, kept, strict=True)
            ],
            np.int64,
        ),
        "counts": np.concatenate([np.zeros(0, np.int64), *(h.counts for h in histograms)]),
        "channels": _table([[m.axis, m.count, len(m.mean)] for m in moments], np.int64, 3),
        "moments": np.concatenate(
            [np.zeros((3, 0)), *(np.stack([m.mean, m.m2, m.mean_abs]) for m in moments)], axis=1
        ),
        "rows": _table([[p.count, len(p.matrix)] for p in products], np.int64, 2),
        "products": np.concatenate([np.zeros(0), *(p.matrix.reshape(-1) for p in products)]),
    }


def _table(rows: Sequence[Sequence[Any]], dtype: type = np.float64, width: int = 4) -> np.ndarray:
    return np.array(rows, dtype).reshape(-1, width)


def _pair(extremes: Extremes) -> tuple[float, float]:
    return extremes.low, extremes.high


def separated(arrays: Mapping[str, np.ndarray]) -> dict[str, TensorState]:
    """The inverse of :func:`joined`.

    Raises:
        KeyError: an array is missing.
        ValueError: the arrays contradict each other.
    """
    names = [str(name) for name in json.loads(arrays["names"].tobytes())]
    present, ranges = arrays["present"].astype(bool), arrays["range"].astype(np.float64)
    bins, channels, rows = (arrays[key].astype(np.int64) for key in ("bins", "channels", "rows"))
    sizes, widths, sides = bins[:, 2], channels[:, 2], rows[:, 1]
    some = sizes > 0
    consistent = (
        len(names) == len(present) == len(bins) == len(ranges) == len(set(names))
        and ranges.shape[1] == 4
        and len(channels) == present[:, 0].sum()
        and len(rows) == present[:, 1].sum()
        and ((sizes >= 0) & (sizes <= BINS)).all()
        and (bins[:, 3] >= some).all()
        and (channels[:, 1] >= 0).all()
        and (widths >= 0).all()
        and (rows >= 0).all()
        and (sides < 1 << 20).all()  # squares below must not overflow
        and sizes.sum() == len(arrays["counts"])
        and arrays["moments"].shape == (3, widths.sum())
        and arrays["products"].shape == ((sides**2).sum(),)
        and (arrays["counts"] >= 0).all()
        and np.isfinite(ranges[some]).all()
        and (ranges[some, 0] <= ranges[some, 1]).all()
        and (np.abs(bins[:, 0]) <= 1074).all()
    )
    if not consistent:
        raise ValueError("its parts contradict each other")
    counts = _cut(arrays["counts"].astype(np.int64, copy=False), sizes)
    moments = (
        Moments(int(axis), int(count), *part)
        for (axis, count, _), part in zip(
            channels, _cut(arrays["moments"].astype(np.float64, copy=False), widths), strict=True
        )
    )
    products = (
        Products(int(count), part.reshape(side, side))
        for (count, side), part in zip(
            rows, _cut(arrays["products"].astype(np.float64, copy=False), sides**2), strict=True
        )
    )
    states = {}
    for i, (name, part) in enumerate(zip(names, counts, strict=True)):
        low, high, mean_low, mean_high = map(float, ranges[i])
        exponent, first, _, feeds = map(int, bins[i])
        states[name] = TensorState(
            Histogram(low, high, exponent, first, part),
            Extremes(feeds, mean_low, mean_high),
            next(moments) if present[i, 0] else None,
            next(products) if present[i, 1] else None,
        )
    return states


def _cut(joined: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    ends = np.cumsum(sizes)
    return (joined[..., end - size : end] for end, size in zip(ends, sizes, strict=True))
