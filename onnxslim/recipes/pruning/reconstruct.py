"""Let the products of a changed model give again what they gave in the original, one level after another.

Each product is fitted on the inputs that it gets in the changed model, with everything before it fitted
already, against its outputs in the original: what was lost before a product is made good by it, and errors
do not add up along the way, through residual branches either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import Product, products_of
from onnxslim.model import edit
from onnxslim.passes.replace_weights import set_bias
from onnxslim.recipes.pruning.recur import refit_recurrent
from onnxslim.recipes.pruning.refitted import Refitted
from onnxslim.recipes.pruning.renormalize import norms_of, refit_norm
from onnxslim.recipes.pruning.rows import row_feed, rows_of, wanted_input, wanted_output
from onnxslim.recipes.pruning.samples import Samples
from onnxslim.reconstruct.ridge import Fit, Sums, fit, with_ones
from onnxslim.runtime.client import Worker

__all__ = ["observed", "reconstruct", "refit", "spread", "stacked", "sums_of", "write_back"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Any]
Kept = Mapping[str, npt.NDArray[np.int64]]

_HELD_OUT = 4  # every so manieth sample chooses the damping
_TARGET_BYTES = 512 << 20  # of the original's outputs that are held at a time
_SUMS_BYTES = 1 << 30  # of the sums of one product; it is left alone where they would take more
_EXACT = 1e-10  # of the energy: an error as small is float rounding
_BLOCK = 2048  # rows that are added up at once


Refit = Callable[[ir.Model, Product, Sums, Sums], Refitted]


def reconstruct(
    worker: Worker,
    original: ir.Model,
    model: ir.Model,
    feeds: Samples,
    kept: Kept,
    *,
    select: Callable[[Product], bool] = lambda product: True,
    refitted: Refit | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Refitted]:
    """Refit the recurrent layers, the products and the normalisations of ``model``, in place.

    Args:
        original: what the model was made from; values of one name are the same but for removed channels.
        feeds: inputs; no labels are needed.
        kept: the channels of the original that a value still has, by name; those not named have all.
        select: which of the products that get other inputs than in the original are fitted.
        refitted: fits one product, from sums over rows to fit on and over held-out ones; default least
            squares.
        seed: of the positions whose rows are taken.
    """
    refitted = refitted or refit
    values = {value.name for node in original.graph for value in node.outputs}
    products = [p for p in products_of(model) if p.name in values and select(p)]
    norms = sorted((norm for norm in norms_of(model) if norm.name in values), key=lambda norm: norm.level)
    found = list(refit_recurrent(worker, original, model, feeds, kept, seed))

    def renormalize(level: float) -> None:
        """Normalisations come before the products that read them."""
        while norms and norms[0].level <= level:
            norm = norms.pop(0)
            progress(f"reconstructing {norm.name}")
            fitted = refit_norm(worker, original, model, norm, feeds, kept.get(norm.name), seed)
            found.extend([fitted] if fitted is not None else [])

    for block in _blocks(products, len(feeds)):
        targets = _targets(worker, original, feeds, block, seed)
        for level in sorted({product.level for product in block}):
            renormalize(level)
            now = [product for product in block if product.level == level]
            progress(f"reconstructing {now[0].name}")
            for part in _affordable(now, found):
                sums = sums_of(worker, model, feeds, part, targets, kept, seed)
                found += [refitted(model, product, *sums[product.name]) for product in part]
    renormalize(math.inf)
    return found


def observed(
    worker: Worker,
    model: ir.Model,
    feeds: Samples,
    seed: int = 0,
    only: Callable[[Product], bool] = lambda product: True,
) -> Iterator[tuple[Product, Sums, Sums]]:
    """Each product of a model with sums over its own inputs and outputs: to fit on, and held-out."""
    products = [product for product in products_of(model) if only(product)]
    for block in _blocks(products, len(feeds)):
        targets = _targets(worker, model, feeds, block, seed)
        for part in _affordable(block, []):
            sums = sums_of(worker, model, feeds, part, targets, {}, seed)
            for product in part:
                yield product, *sums.pop(product.name)


def sums_of(
    worker: Worker,
    model: ir.Model,
    feeds: Samples,
    products: Sequence[Product],
    targets: Mapping[str, Sequence[Array]],
    kept: Kept,
    seed: int = 0,
) -> dict[str, tuple[Sums, Sums]]:
    """Sums over the rows to fit on and over held-out ones, by the name of the product.

    Args:
        model: what the inputs are taken from.
        targets: by name of the product, for each feed, rows of the wanted outputs.
    """
    wanted = [wanted_input(product, len(feeds), seed) for product in products]
    adders = {product.name: (_Adder(product), _Adder(product)) for product in products}
    for number, rows in enumerate(row_feed(worker, model, feeds, wanted)):
        part = int(number % _HELD_OUT == _HELD_OUT - 1)
        for product, x in zip(products, rows, strict=True):
            y = targets[product.name][number]
            chosen = kept.get(product.name)
            adders[product.name][part].add(x, y if chosen is None else y[:, chosen])
    return {name: (pair[0].finish(), pair[1].finish()) for name, pair in adders.items()}


class _Adder:
    """Adds rows up in blocks of a good size."""

    def __init__(self, product: Product) -> None:
        self._linear = product.linear
        groups, length, outputs = product.dims
        self._bias = product.has_bias
        self._sums = Sums.empty(groups, length + self._bias, outputs)
        self._waiting: list[tuple[Array, Array]] = []
        self._rows = 0

    def add(self, x: Array, y: Array) -> None:
        self._waiting.append((x, y))
        self._rows += len(x)
        if self._rows >= _BLOCK:
            self._flush()

    def finish(self) -> Sums:
        if self._waiting:
            self._flush()
        return self._sums

    def _flush(self) -> None:
        groups = self._linear.groups
        x, y = (
            np.concatenate(each).astype(np.float64).reshape(self._rows, groups, -1).swapaxes(0, 1)
            for each in zip(*self._waiting, strict=True)
        )
        self._sums.add(with_ones(x) if self._bias else x, y)
        self._waiting.clear()
        self._rows = 0


def refit(model: ir.Model, product: Product, sums: Sums, held_out: Sums) -> Refitted:
    """Write the fit of one product into the model, if it is better on held-out rows."""
    weight, length, has_bias = stacked(product), product.dims[1], product.has_bias
    energy = spread(held_out, has_bias)
    if held_out.error(weight) < _EXACT * energy:  # nothing before it has changed
        return Refitted(product.name, 0.0, 0.0, None)
    found: Fit = fit(sums, held_out, weight, bias=has_bias)
    before, after = found.before / energy, found.after / energy
    if found.damping is None:
        return Refitted(product.name, before, after, None, "nothing is better on held-out samples")
    write_back(model, product, found.weight[:, :length], found.weight[:, length:])
    return Refitted(product.name, before, after, found.damping)


def stacked(product: Product) -> Array:
    """The weight of a product as ``[groups, length, outputs]`` in float64; its bias is one more row, where it
    has one or could."""
    tensor = product.weight.const_value
    assert tensor is not None
    weight = product.linear.matrix(tensor.numpy().astype(np.float64))
    groups, _, outputs = weight.shape
    if not product.has_bias:
        return weight
    bias = np.zeros(groups * outputs)
    if product.bias is not None and product.bias.const_value is not None:
        bias = np.broadcast_to(product.bias.const_value.numpy(), bias.shape)
    return np.concatenate([weight, bias.reshape(groups, 1, outputs)], axis=1)


def write_back(model: ir.Model, product: Product, weight: Array, bias: Array) -> None:
    """Write a weight ``[groups, length, outputs]`` and, if there is one, a bias ``[groups, 1, outputs]``."""
    tensor = product.linear.weight_of(weight, product.shape).astype(np.float32)
    edit.replace_initializer(product.weight, tensor)
    if product.has_bias:
        set_bias(model, product, bias.reshape(-1).astype(np.float32))


def spread(sums: Sums, has_bias: bool) -> float:
    """The energy of the targets, about their mean where that is known: an offset counts for nothing."""
    energy = float(sums.energy.sum())
    if has_bias and sums.count:
        energy -= float((sums.products[:, -1] ** 2).sum()) / sums.count
    return max(energy, float(np.finfo(np.float64).tiny))


def _targets(
    worker: Worker, original: ir.Model, feeds: Samples, products: Sequence[Product], seed: int
) -> dict[str, list[Array]]:
    """Rows of the outputs in the original."""
    wanted = [
        wanted_output(each.name, each.linear.channels, rows_of(each), len(feeds), seed) for each in products
    ]
    found: dict[str, list[Array]] = {product.name: [] for product in products}
    for rows in row_feed(worker, original, feeds, wanted):
        for each, into in zip(rows, found.values(), strict=True):
            into.append(each)
    return found


def _blocks(products: Sequence[Product], samples: int) -> Iterator[list[Product]]:
    """Consecutive levels whose targets fit into memory together."""
    block: list[Product] = []
    size = 0
    by_level = sorted(products, key=lambda product: product.level)
    for level in sorted({product.level for product in by_level}):
        now = [product for product in by_level if product.level == level]
        own = sum(4 * rows_of(p) * p.linear.groups * p.dims[2] for p in now)
        if block and size + own > _TARGET_BYTES:
            yield block
            block, size = [], 0
        block += now
        size += own
    if block:
        yield block


def _affordable(products: Sequence[Product], declined: list[Refitted]) -> Iterator[list[Product]]:
    """Parts whose sums fit into memory together; what is too large by itself is declined."""
    part: list[Product] = []
    size = 0
    for product in products:
        groups, length, outputs = product.dims
        own = 16 * groups * (length + 1) * (2 * length + outputs)
        if own > _SUMS_BYTES:
            reason = f"its {length} inputs are too many to solve for"
            declined.append(Refitted(product.name, math.nan, math.nan, None, reason))
            continue
        if part and size + own > _SUMS_BYTES:
            yield part
            part, size = [], 0
        part.append(product)
        size += own
    if part:
        yield part
