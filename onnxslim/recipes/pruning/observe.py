"""What the products of a model get to see: second moments and activity of the rows that they multiply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import Product
from onnxslim.recipes.pruning.rows import row_feed, wanted_input
from onnxslim.recipes.pruning.samples import Samples
from onnxslim.runtime.client import Worker

__all__ = ["Seen", "observe"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Any]

_BLOCK = 2048  # rows that are added up at once
_MOST_BYTES = 1 << 30  # of all second moments; what exceeds it is not observed


@dataclass
class Seen:
    """Of the rows of one product.

    Attributes:
        moments: ``X^T X`` with a last column of ones in X, ``[groups, length + 1, length + 1]``, float64.
        magnitude: sum of ``|x|``, ``[groups, length]``.
        active: how many x were not zero, ``[groups, length]``.
        count: of rows.
    """

    moments: Array
    magnitude: Array
    active: Array
    count: int = 0

    @classmethod
    def nothing(cls, groups: int, length: int) -> Seen:
        """Of no rows."""
        square = np.zeros((groups, length + 1, length + 1))
        return cls(square, np.zeros((groups, length)), np.zeros((groups, length)))

    def add(self, rows: Array) -> None:
        """Add rows, ``[groups, rows, length]``.

        Example:
            >>> seen = Seen.nothing(1, 2)
            >>> seen.add(np.array([[[1.0, -2.0], [0.0, 2.0]]]))
            >>> seen.moments[0].tolist(), seen.active.tolist()
            ([[1.0, -2.0, 1.0], [-2.0, 8.0, 0.0], [1.0, 0.0, 2.0]], [[1.0, 2.0]])
        """
        x = rows.astype(np.float64)
        sums = x.sum(axis=1)
        self.moments[:, :-1, :-1] += x.swapaxes(1, 2) @ x
        self.moments[:, :-1, -1] += sums
        self.moments[:, -1, :-1] += sums
        self.moments[:, -1, -1] += x.shape[1]
        self.magnitude += np.abs(x).sum(axis=1)
        self.active += np.count_nonzero(x, axis=1)
        self.count += x.shape[1]


def observe(
    worker: Worker, model: ir.Model, feeds: Samples, products: Sequence[Product], seed: int = 0
) -> dict[str, Seen]:
    """Run the model once on each feed.

    Returns:
        By the name of the product's weight; products whose moments are too large are left out.
    """
    chosen, left = [], _MOST_BYTES
    for product in products:
        groups, length, _ = product.dims
        size = 8 * groups * (length + 1) ** 2
        if size <= left:
            chosen.append(product)
            left -= size
    found = {p.weight.name or "": Seen.nothing(*p.dims[:2]) for p in chosen}
    waiting: dict[str, list[Array]] = {name: [] for name in found}
    wanted = [wanted_input(product, len(feeds), seed) for product in chosen]
    for rows in row_feed(worker, model, feeds, wanted):
        for product, x in zip(chosen, rows, strict=True):
            name = product.weight.name or ""
            waiting[name].append(x)
            if sum(map(len, waiting[name])) >= _BLOCK:
                found[name].add(_grouped(waiting.pop(name), product))
                waiting[name] = []
    for product in chosen:
        if waiting[product.weight.name or ""]:
            found[product.weight.name or ""].add(_grouped(waiting[product.weight.name or ""], product))
    return found


def _grouped(parts: Sequence[Array], product: Product) -> Array:
    rows = np.concatenate(parts)
    return rows.reshape(len(rows), product.linear.groups, -1).swapaxes(0, 1)
