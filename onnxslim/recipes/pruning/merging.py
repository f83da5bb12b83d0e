"""Let the channels of a group that stay stand in for those that go, in every product that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import products_of
from onnxslim.model import edit
from onnxslim.model.edit import constant_value
from onnxslim.ops.registry import spec_of
from onnxslim.passes.replace_weights import set_bias
from onnxslim.recipes.pruning.evidence import Consumer, Evidence
from onnxslim.reconstruct.elimination import Elimination
from onnxslim.reconstruct.merging import (
    into_many,
    into_one,
    pair_errors,
    position_moments,
    rectified_moments,
)

__all__ = ["Into", "compensate", "mixed", "pairs", "states"]

Array = npt.NDArray[Any]
Into = Literal["many", "one"]

_DAMPING = 1e-5  # of the mean of the diagonal: what is lost to it counts as an error
_WALK = 8  # nodes between what makes a channel and what reads it


def states(evidence: Evidence) -> list[Elimination]:
    """For each product that reads the group the state from which channels are merged into the others."""
    found = []
    for consumer in evidence.products:
        moments, weight = _moments(evidence, consumer), _positions(consumer)
        flat = weight.reshape(len(weight), -1)
        if consumer.product.has_bias:
            flat = np.concatenate([flat, np.zeros((1, flat.shape[1]))])
        else:
            moments = moments[:-1, :-1]
        rows = np.arange(len(weight))[:, None]
        constant = consumer.product.has_bias
        found.append(Elimination(flat[None], moments[None], rows, _DAMPING, centred=constant))
    return found


def pairs(evidence: Evidence) -> Array | None:
    """What it adds to the relative error of the products if one channel becomes a multiple of another."""
    total: Array | None = None
    for consumer in evidence.products:
        moments, constant = _moments(evidence, consumer), consumer.product.has_bias
        weight = _positions(consumer)
        errors = pair_errors(moments, weight, constant=constant)
        energy = float(np.sum(np.square(weight).sum(axis=(1, 2)) * np.diag(moments)[:-1]))
        errors = errors / max(energy, float(np.finfo(np.float64).tiny))
        total = errors if total is None else total + errors
    return total


def mixed(
    evidence: Evidence, gone: Sequence[int] | npt.NDArray[np.int64], into: Into
) -> Iterator[tuple[Consumer, Array]]:
    """Merge ``gone`` into the others: each product that reads the group, and its weight then.

    The weight is ``[groups, length, outputs]``; where the product has a bias, one row more is added to it.
    """
    removed = np.asarray(gone, np.int64)
    kept = np.setdiff1d(np.arange(evidence.size), removed)
    partners = None
    if into == "one" and evidence.products and len(removed):
        errors = pairs(evidence)
        assert errors is not None
        partners = errors[np.ix_(removed, kept)].argmin(axis=1)
    for consumer in evidence.products:
        constant = consumer.product.has_bias
        moments = _moments(evidence, consumer)
        if partners is None:
            mixing = into_many(moments, kept, removed, constant=constant)
        else:
            mixing = into_one(moments, kept, removed, partners, constant=constant)
        yield consumer, _mixed(consumer, kept, removed, mixing, constant)


def compensate(
    model: ir.Model, evidence: Iterable[Evidence], removal: Mapping[str, Sequence[int]], into: Into
) -> None:
    """Change the products of ``model`` that read what goes, in place."""
    products = {p.weight.name: p for p in products_of(model)}
    for each in evidence:
        gone = removal.get(each.group.key, ())
        if not len(gone):
            continue
        for consumer, weight in mixed(each, gone, into):
            product = products.get(consumer.product.weight.name)
            tensor = None if product is None else product.weight.const_value
            if product is None or tensor is None:
                continue
            groups, length, outputs = consumer.weight.shape
            # another group may have changed other rows of it
            now = product.linear.matrix(tensor.numpy().astype(np.float64))
            now = now + (weight[:, :length] - consumer.weight)
            stored = product.linear.weight_of(now, tensor.shape.numpy()).astype(np.float32)
            edit.replace_initializer(product.weight, stored)
            if weight.shape[1] > length and weight[:, length].any():
                old = constant_value(product.bias)
                bias = np.zeros(groups * outputs) if old is None else np.broadcast_to(old, groups * outputs)
                set_bias(model, product, (bias + weight[:, length].reshape(-1)).astype(np.float32))
                products = {p.weight.name: p for p in products_of(model)}


def _mixed(
    consumer: Consumer,
    kept: npt.NDArray[np.int64],
    gone: npt.NDArray[np.int64],
    mixing: Array,
    constant: bool,
) -> Array:
    groups, length, outputs = consumer.weight.shape
    weight = consumer.weight.copy()
    flat = weight.reshape(groups * length, outputs)
    lost = flat[consumer.rows[gone]]  # [gone, positions, outputs]
    for place in range(consumer.rows.shape[1]):
        flat[consumer.rows[kept, place]] += mixing[:, :-1].T @ lost[:, place]
    flat[consumer.rows[gone].reshape(-1)] = 0
    if not constant:
        return weight
    bias = np.zeros((groups, 1, outputs))
    np.add.at(bias[:, 0], consumer.rows[gone] // length, mixing[:, -1, None, None] * lost)
    return np.concatenate([weight, bias], axis=1)


def _positions(consumer: Consumer) -> Array:
    """``[atoms, positions, outputs]``."""
    return np.asarray(consumer.weight.reshape(-1, consumer.weight.shape[2])[consumer.rows])


def _moments(evidence: Evidence, consumer: Consumer) -> Array:
    """Of the channels as the product gets them: observed, else as the weights that make them let expect."""
    if consumer.seen is not None and consumer.seen.count:
        return position_moments(consumer.seen.moments, consumer.rows)
    found = rectified_moments(_making(evidence), rectified=_is_bent(consumer))
    groups = consumer.rows // consumer.weight.shape[1]
    together = (groups[:, None] == groups[None]).all(axis=2)
    found[:-1, :-1] *= together
    return found


def _making(evidence: Evidence) -> Array:
    """The weights that make each channel, times the scale of a normalisation, and its biases."""
    pairs = list(zip(evidence.producers, evidence.vectors, strict=True))
    columns = [array for array, vector in pairs if not vector]
    factor = np.prod([np.ones((evidence.size, 1)), *evidence.scales], axis=0)
    scales = {id(scale) for scale in evidence.scales}
    biases = [array for array, vector in pairs if vector and id(array) not in scales]
    scaled = [column * factor for column in columns]
    return np.concatenate([*scaled, *biases], axis=1) if scaled or biases else np.ones((evidence.size, 1))


def _is_bent(consumer: Consumer) -> bool:
    """Whether an activation lies between the product and what makes its channels."""
    value = consumer.product.input
    for _ in range(_WALK):
        node = value.producer()
        spec = spec_of(node) if node is not None else None
        if node is None or spec is None or spec.linear is not None:
            return False
        given = [v for v in node.inputs if v is not None and constant_value(v) is None]
        others = [constant_value(v) for v in node.inputs if v is not None and v not in given]
        if spec.elementwise and len(given) == 1 and all(c is None or c.size == 1 for c in others):
            return True
        if not given:
            return False
        value = given[0]
    return False
