"""States of tensors as a few arrays with a JSON head, in one ``.npz`` file; nothing in a file is trusted."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim.calibration.moments import Moments, Products
from onnxslim.calibration.observers import BINS, Extremes, Histogram, TensorState
from onnxslim.calibration.sources.npz import open_npz
from onnxslim.errors import CalibrationError

__all__ = ["DAMAGE", "read_archive", "write_archive"]

# what taking a damaged head or damaged arrays apart may raise
DAMAGE = (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


def write_archive(
    path: Path, head: Mapping[str, Any], states: Mapping[str, TensorState], *, compress: bool
) -> None:
    """Write to ``path`` in one step: an existing file is replaced whole or not at all.

    Raises:
        CalibrationError: the file cannot be written.
    """
    content = {"head": np.frombuffer(json.dumps(dict(head)).encode(), np.uint8), **_joined(states)}
    save = np.savez_compressed if compress else np.savez
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
            try:
                save(out, allow_pickle=False, **content)
                out.flush()
                os.fsync(out.fileno())
                Path(out.name).chmod(0o644)
                Path(out.name).replace(path)
            except BaseException:
                Path(out.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CalibrationError(
            f"the calibration cannot be written: {error.strerror}", where=str(path)
        ) from error


def read_archive(path: Path, schema: str) -> tuple[dict[str, Any], dict[str, TensorState]]:
    """Head and states of a file that :func:`write_archive` wrote.

    Raises:
        CalibrationError: not such a file, or of another schema; what else is damaged raises ``DAMAGE``.
    """
    where = str(path)
    with open_npz(path) as members:
        if "head" not in members:
            raise ValueError("it is no calibration")
        arrays = {name: member.whole() for name, member in members.items()}
    head = json.loads(arrays["head"].tobytes())
    if head["schema"] != schema:
        raise CalibrationError(f"the calibration has the unknown format {head['schema']!r}", where=where)
    return head, _states(arrays)


def _joined(states: Mapping[str, TensorState]) -> dict[str, np.ndarray]:
    """The states as arrays, one after the other."""
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


def _states(arrays: Mapping[str, np.ndarray]) -> dict[str, TensorState]:
    """Cut the joined arrays apart; raises ValueError where they contradict each other."""
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
    counts = _cut(arrays["counts"].astype(np.int64), sizes)
    moments = (
        Moments(int(axis), int(count), *part)
        for (axis, count, _), part in zip(
            channels, _cut(arrays["moments"].astype(np.float64), widths), strict=True
        )
    )
    products = (
        Products(int(count), part.reshape(side, side))
        for (count, side), part in zip(
            rows, _cut(arrays["products"].astype(np.float64), sides**2), strict=True
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
