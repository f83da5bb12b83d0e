"""Rows of products at sampled positions, of one model or of two at the same positions."""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.extract import extract
from onnxslim.analysis.linears import Product
from onnxslim.ops.linear import Linear
from onnxslim.recipes.pruning.samples import Samples
from onnxslim.runtime.client import Worker

__all__ = ["row_feed", "rows_of", "wanted_input", "wanted_output"]

Array = npt.NDArray[Any]

_ROWS = (8192, 32768)  # at least and at most, of each product
_ROWS_PER_COLUMN = 32
_CALL_BYTES, _CALL_FEEDS = 8 << 20, 32  # that go to the worker and back at once


def row_feed(
    worker: Worker,
    model: ir.Model,
    feeds: Samples,
    wanted: Sequence[Mapping[str, Any]],
) -> Iterator[list[Array]]:
    """For each feed what :func:`onnxslim.calibration.rows.collect` finds; no more of the model is run."""
    if not wanted:  # there is nothing to run
        yield from ([] for _ in feeds)
        return
    part, _ = extract(model, [item["output"] for item in wanted])
    for value in part.graph.outputs:
        if value.producer() is not None:
            value.shape = None  # an annotation that does not hold must not become a promise
    with worker.load(part, optimize="basic") as session:
        names = {info.name for info in session.inputs}
        number, together, source = 0, 1, iter(feeds)
        while chunk := list(itertools.islice(source, together)):
            fed = [{name: value for name, value in feed.items() if name in names} for feed in chunk]
            found: list[list[Array]] = worker.call(
                "onnxslim.calibration.rows:collect", session, fed, list(wanted), number
            )
            yield from found
            number += len(chunk)
            size = sum(rows.nbytes for rows in found[0]) + sum(np.asarray(v).nbytes for v in fed[0].values())
            together = min(max(_CALL_BYTES // max(size, 1), 1), _CALL_FEEDS)


def wanted_input(product: Product, samples: int, seed: int) -> dict[str, Any]:
    """What :func:`row_feed` is asked for to get the input of a product."""
    return {
        "output": product.input.name,
        "limit": math.ceil(rows_of(product) / samples),
        "seed": [seed, zlib.crc32(product.name.encode())],
        "window": _window(product.linear),
    }


def wanted_output(name: str, axis: int, rows: int, samples: int, seed: int) -> dict[str, Any]:
    """What it is asked for to get a value by its channels: the same rows, where it is a product's output."""
    return {
        "output": name,
        "limit": math.ceil(rows / samples),
        "seed": [seed, zlib.crc32(name.encode())],
        "axis": axis,
    }


def _window(linear: Linear) -> dict[str, Any] | None:
    if linear.kernel is None:
        return None
    fields = ("kernel", "strides", "pads", "dilations", "groups", "same", "spread")
    return {name: value for name, value in dataclasses.asdict(linear).items() if name in fields}


def rows_of(product: Product) -> int:
    """How many are enough."""
    _, length, _ = product.dims
    return min(max(_ROWS_PER_COLUMN * length, _ROWS[0]), _ROWS[1])
