"""Rows of matrix products at sampled positions, of one model or of two at the same positions.

A product of a large picture has far more rows than it takes to fit a matrix; some of each sample will do.
Runs in the worker process: imports numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.calibration.patches import Window

__all__ = ["collect", "input_rows", "output_rows"]

Array = npt.NDArray[Any]


def collect(
    session: Any, feeds: Sequence[Mapping[str, Array]], wanted: Sequence[Mapping[str, Any]], first: int = 0
) -> list[list[Array]]:
    """Run a session once for each feed and take rows of its outputs.

    Args:
        session: of onnxruntime; its outputs are tensors of floats.
        first: number of the first feed: each has positions of its own.
        wanted: each with ``output``, ``limit`` (of rows), ``seed``, and ``window`` (arguments of
            :class:`Window`, None where rows lie along the last axis) for the input of a product, or ``axis``
            (of the channels) for its output.

    Returns:
        For each feed ``[rows, columns]`` of each; columns of an input are in the order of its channels.
    """
    return [_collect(session, feed, wanted, first + number) for number, feed in enumerate(feeds)]


def _collect(
    session: Any, feed: Mapping[str, Array], wanted: Sequence[Mapping[str, Any]], number: int
) -> list[Array]:
    values = dict(feed)
    names = [name for name in dict.fromkeys(item["output"] for item in wanted) if name not in values]
    if names:
        values.update(zip(names, session.run(names, dict(feed)), strict=True))
    found = []
    for item in wanted:
        value, seed = values[item["output"]], [*item["seed"], number]
        if "axis" in item:
            found.append(output_rows(value, item["axis"], item["limit"], seed))
        else:
            window = item["window"]
            window = None if window is None else Window(**{k: _tuple(v) for k, v in window.items()})
            found.append(input_rows(value, window, item["limit"], seed))
    return found


def input_rows(values: Array, window: Window | None, limit: int, seed: Sequence[int]) -> Array:
    """At most ``limit`` of the rows that a weight is multiplied with.

    Example:
        >>> input_rows(np.arange(8.0).reshape(1, 2, 4), Window((2,)), 2, [0]).shape
        (2, 4)
    """
    if window is None:
        rows = values.reshape(-1, values.shape[-1])
        return np.ascontiguousarray(rows[_positions(len(rows), limit, seed)])
    view = window.over(values)
    places = view.shape[: 1 + len(window.kernel)]
    chosen = np.unravel_index(_positions(math.prod(places), limit, seed), places)
    return view[chosen].reshape(len(chosen[0]), math.prod(view.shape[len(places) :]))


def output_rows(values: Array, axis: int, limit: int, seed: Sequence[int]) -> Array:
    """The same rows of what the product gives.

    Example:
        >>> output_rows(np.arange(6.0).reshape(1, 2, 3), 1, 3, [0])
        array([[0., 3.],
               [1., 4.],
               [2., 5.]])
    """
    rows = np.moveaxis(values, axis, -1)
    places = rows.shape[:-1]
    chosen = np.unravel_index(_positions(math.prod(places), limit, seed), places) if places else ()
    return np.ascontiguousarray(rows[chosen]).reshape(-1, rows.shape[-1])


def _positions(count: int, limit: int, seed: Sequence[int]) -> npt.NDArray[np.int64]:
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(list(seed)).choice(count, limit, replace=False))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
