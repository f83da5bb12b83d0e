"""Binary weights that keep the outputs: signs and scales fitted to what each product gave in the original.

First each product alone, with the inputs that it gets in the original, for every number of bases: these are
the forms from which :class:`onnxslim.recipes.storage.Storage` chooses.  Few signs are much noise, so what was
chosen is then fitted once more, one level after another: to the inputs that come out of the forms before it,
with the original's outputs as the target, so that each product makes good what was lost in front of it.
Weights in other forms are fitted likewise before they are rounded, and biases take the mean of what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import Product, products_of
from onnxslim.model import edit
from onnxslim.passes.base import Pass
from onnxslim.passes.binarize_weights import BinarizeWeights
from onnxslim.passes.replace_weights import ReplaceWeights
from onnxslim.recipes.pruning.reconstruct import observed, reconstruct, refit, spread, stacked, write_back
from onnxslim.recipes.pruning.refitted import Refitted
from onnxslim.recipes.pruning.samples import Samples
from onnxslim.reconstruct.binary import MAX_BASES, Binary, binarize, join
from onnxslim.reconstruct.blocks import View
from onnxslim.reconstruct.ridge import Sums
from onnxslim.runtime.client import open_worker

__all__ = ["Signs"]

Array = npt.NDArray[Any]

_ALONE = 0.1
_DAMPINGS = (0.03, 0.3)
_FEW_OUTPUTS = 8  # of a group; below there is nothing to gain from the inputs of so few


@dataclass
class Signs:
    """Fits binary weights of one model.

    Args:
        model: with float weights; it stays as it is.
        samples: inputs; no labels are needed.
        bases: signs for each weight, at most.
    """

    model: ir.Model
    samples: Samples
    bases: int = MAX_BASES
    progress: Callable[[str], None] = lambda message: None
    _refitted: dict[Any, tuple[Pass, ...]] = field(default_factory=dict)

    def forms(self) -> tuple[BinarizeWeights, ...]:
        """A pass for each number of bases, whose weights are fitted to the inputs of the original."""
        known: list[dict[str, Binary]] = [{} for _ in range(self.bases)]

        with open_worker() as worker:
            for product, sums, held_out in observed(worker, self.model, self.samples):
                for bases, forms in enumerate(known, 1):
                    alone = _without_bias(sums, product)
                    found = _best(product, alone, held_out, bases, dampings=(_ALONE,))
                    forms[product.weight.name or ""] = found.form
        return tuple(
            BinarizeWeights(bases=bases, known=forms, min_sqnr_db=0.0) for bases, forms in enumerate(known, 1)
        )

    def refit(self, steps: Sequence[Pass]) -> tuple[Pass, ...]:
        """The same forms of the same weights, fitted one level after another."""
        key = tuple((step.name, getattr(step, "bases", 0), getattr(step, "only", ())) for step in steps)
        if key not in self._refitted:
            self._refitted[key] = self._in_order(steps)
        return self._refitted[key]

    def _in_order(self, steps: Sequence[Pass]) -> tuple[Pass, ...]:
        model = edit.copy_of(self.model)
        form_of = {name: cast("Any", step) for step in steps for name in getattr(step, "only", ())}
        later = {product.weight.name for product in products_of(model)}
        for step in steps:
            for name, stored in cast("Any", step).stored(model).items():
                if name not in later:
                    edit.replace_initializer(model.graph.initializers[name], stored.decode())
        weights: dict[str, Array] = {}
        biases: dict[str, Array] = {}
        signs: dict[str, Binary] = {}

        def fitted(model: ir.Model, product: Product, sums: Sums, held_out: Sums) -> Refitted:
            name = product.weight.name or ""
            form = form_of.get(name)
            if isinstance(form, BinarizeWeights):
                found = _best(product, sums, held_out, form.bases, form.known.get(name))
                signs[name] = found.form
                write_back(model, product, found.weight, found.bias)
                outcome = found.outcome
            else:
                outcome = refit(model, product, sums, held_out)
                if outcome.damping is not None:
                    weights[name] = _content(product.weight)
                if form is not None and (stored := replace(form, only=(name,)).stored(model).get(name)):
                    edit.replace_initializer(product.weight, stored.decode().astype(np.float32))
            if product.has_bias and not outcome.declined:
                after = next(each for each in products_of(model) if each.name == product.name)
                if after.bias is not None:
                    biases[product.name] = np.broadcast_to(_content(after.bias), _channels(after))
            return outcome

        with open_worker() as worker:
            reconstruct(worker, self.model, model, self.samples, {}, refitted=fitted, progress=self.progress)
        return (
            ReplaceWeights(weights, biases),
            *(
                replace(step, known={**step.known, **signs}) if isinstance(step, BinarizeWeights) else step
                for step in steps
            ),
        )


@dataclass(frozen=True)
class _Fitted:
    """Signs of one weight, what they decode to and the bias, as ``write_back`` takes them."""

    form: Binary
    weight: Array
    bias: Array
    outcome: Refitted


def _best(
    product: Product,
    sums: Sums,
    held_out: Sums,
    bases: int,
    known: Binary | None = None,
    dampings: Sequence[float] = _DAMPINGS,
) -> _Fitted:
    """The form, of those that were tried, with the least error on held-out rows."""
    biased = sums.inputs.shape[1] > product.dims[1]
    judge = held_out if biased else _without_bias(held_out, product)
    before = judge.error(stacked(product)[:, : sums.inputs.shape[1]])
    energy = spread(judge, biased)
    found: list[tuple[float, _Fitted]] = []
    for damping, form in _tried(product, sums, bases, known, dampings):
        weight = product.linear.matrix(form.decode().astype(np.float64))
        bias = _mean_lost(sums, weight) if biased else np.zeros((len(weight), 0, weight.shape[2]))
        if not np.isfinite(bias).all():
            bias = stacked(product)[:, -1:]
        error = judge.error(np.concatenate([weight, bias], axis=1))
        outcome = Refitted(product.name, before / energy, error / energy, damping)
        found.append((error if np.isfinite(error) else np.inf, _Fitted(form, weight, bias, outcome)))
    return min(found, key=lambda pair: pair[0])[1]


def _tried(
    product: Product, sums: Sums, bases: int, known: Binary | None, dampings: Sequence[float]
) -> Iterator[tuple[float | None, Binary]]:
    """Forms fitted to the sums, and one of the weight alone."""
    _, length, outputs = product.dims
    weight = stacked(product)[:, :length]
    view = View(outputs, length, 1) if product.linear.outputs_first else View(1, length, outputs)
    if known is not None:
        yield None, known

    def formed(target: Array, moments: Array | None) -> Binary:
        parts = [
            binarize(
                matrix.T if product.linear.outputs_first else matrix,
                view,
                bases,
                None if moments is None else moments[number],
            )
            for number, matrix in enumerate(target)
        ]
        return join(parts, product.shape)

    yield None, formed(weight, None)
    if outputs < _FEW_OUTPUTS:
        return
    biased = sums.inputs.shape[1] > length
    inputs, products = _centred(sums) if biased else (sums.inputs, sums.products)
    for damping in dampings:
        mean = np.einsum("gii->g", inputs) / length
        if not (np.isfinite(mean).all() and (mean > 0).all()):
            return
        moments = inputs + damping * mean[:, None, None] * np.eye(length)
        target = weight + np.linalg.solve(moments, products - inputs @ weight)
        yield damping, formed(target, moments)


def _centred(sums: Sums) -> tuple[Array, Array]:
    """Without the means of inputs and targets, for which the bias stands."""
    inputs, products = sums.inputs[:, :-1, :-1], sums.products[:, :-1]
    ones = sums.inputs[:, :-1, -1:] / max(sums.count, 1)
    return inputs - ones @ sums.inputs[:, -1:, :-1], products - ones @ sums.products[:, -1:]


def _mean_lost(sums: Sums, weight: Array) -> Array:
    """The bias with which the outputs have the mean of the targets."""
    lost: Array = (sums.products[:, -1:] - sums.inputs[:, -1:, :-1] @ weight) / max(sums.count, 1)
    return lost


def _without_bias(sums: Sums, product: Product) -> Sums:
    """The sums for a target without its bias, which stays what it is."""
    if not product.has_bias:
        return sums
    bias = stacked(product)[:, -1:]
    ones = sums.inputs[:, :-1, -1:]
    energy = sums.energy - 2 * bias[:, 0] * sums.products[:, -1] + bias[:, 0] ** 2 * sums.count
    return Sums(sums.inputs[:, :-1, :-1], sums.products[:, :-1] - ones @ bias, energy, sums.count)


def _content(value: ir.Value) -> Array:
    content = edit.constant_value(value)
    assert content is not None
    return content


def _channels(product: Product) -> tuple[int]:
    groups, _, outputs = product.dims
    return (groups * outputs,)
