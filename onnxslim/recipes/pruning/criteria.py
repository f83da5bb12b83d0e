"""How much each channel of a group is worth: the criteria by name, ours and those of other packages.

A criterion gives each atom of a group a number, larger where it matters more.  A third party adds one through
the entry point group ``onnxslim.criteria``; the entry point's value is a :class:`Criterion`.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.errors import OptionError
from onnxslim.recipes.pruning.evidence import Consumer, Evidence
from onnxslim.recipes.pruning.merging import Into, pairs, states
from onnxslim.reconstruct.elimination import Elimination
from onnxslim.reconstruct.merging import pair_order

__all__ = ["CRITERIA", "Criterion", "all_criteria", "criterion", "elimination_of", "stepwise"]

Array = npt.NDArray[Any]

_GROUP = "onnxslim.criteria"
_STEPS = 32  # in which a group is taken apart
_LONG = 2000  # rows of a product, from which on there are fewer steps


@dataclass(frozen=True)
class Criterion:
    """One way to rank channels.

    Attributes:
        name: as on the command line.
        score: ``(evidence, random) -> [size]``; larger matters more.
        needs_data: it looks at what the products were observed to get.
        help: one line.
        merges: channels that go become sums of the others, or multiples of one.
    """

    name: str
    score: Callable[[Evidence, np.random.Generator], Array]
    needs_data: bool
    help: str
    merges: Into | None = None


@functools.cache
def all_criteria() -> Mapping[str, Criterion]:
    """Every registered criterion by name.

    Raises:
        OptionError: two of one name, or an entry point that is no criterion.

    Example:
        >>> "obs" in all_criteria()
        True
    """
    found = {each.name: each for each in CRITERIA}
    for entry in importlib.metadata.entry_points(group=_GROUP):
        value = entry.load()
        if not isinstance(value, Criterion):
            raise OptionError(
                f"the entry point {entry.name!r} of the group {_GROUP} is not a criterion",
                where=entry.value,
                hint="it must name an onnxslim.recipes.pruning.criteria.Criterion",
            )
        if found.setdefault(value.name, value) is not value:
            raise OptionError(f"two criteria bear the name {value.name!r}", where=entry.value)
    return types.MappingProxyType(found)


def criterion(name: str) -> Criterion:
    """The criterion of a name.

    Raises:
        OptionError: there is none; with the nearest name.
    """
    known = all_criteria()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(known)}"
        raise OptionError(f"there is no criterion {name!r}", hint=hint)
    return known[name]


def _total(arrays: Iterable[Array], measure: Callable[[Array], Array], size: int) -> Array:
    """Sum of a measure over tensors, each brought to a mean of one, so that none drowns the others."""
    total = np.zeros(size)
    for array in arrays:
        values = measure(array)
        mean = float(values.mean())
        if mean > 0:
            total += values / mean
    return total


def _matrices(evidence: Evidence) -> list[Array]:
    """The weights that make the channels, without biases; these too where there is nothing else."""
    pairs = zip(evidence.producers, evidence.vectors, strict=True)
    return [array for array, vector in pairs if not vector] or list(evidence.producers)


def _random(evidence: Evidence, random: np.random.Generator) -> Array:
    return random.random(evidence.size)


def _l1(evidence: Evidence, random: np.random.Generator) -> Array:
    return _total(_matrices(evidence), lambda a: np.abs(a).sum(axis=1), evidence.size)


def _l2(evidence: Evidence, random: np.random.Generator) -> Array:
    return _total(_matrices(evidence), lambda a: np.sqrt((a**2).sum(axis=1)), evidence.size)


def _group_norm(evidence: Evidence, random: np.random.Generator) -> Array:
    """Fang et al., "DepGraph: Towards Any Structural Pruning", 2023: all that goes together counts."""
    everything = (*evidence.producers, *evidence.consumers)
    return np.sqrt(_total(everything, lambda a: (a**2).sum(axis=1), evidence.size))


def _norm_scale(evidence: Evidence, random: np.random.Generator) -> Array:
    """Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017."""
    if not evidence.scales:  # folded into the weights, which carry them now
        return _l2(evidence, random)
    return _total(evidence.scales, lambda a: np.abs(a).sum(axis=1), evidence.size)


def _geometric_median(evidence: Evidence, random: np.random.Generator) -> Array:
    """He et al., "Filter Pruning via Geometric Median", 2019: what lies amid the others can be replaced."""
    flat = np.concatenate([each / (np.abs(each).max() or 1.0) for each in _matrices(evidence)], axis=1)
    squares = (flat**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0)
    return np.asarray(np.sqrt(distances).sum(axis=1))


def _sparsity(evidence: Evidence, random: np.random.Generator) -> Array:
    """Nothing for a channel that is zero, or that nobody listens to."""
    made = _total(evidence.producers, lambda a: np.abs(a).max(axis=1, initial=0.0), evidence.size)
    used = _total(evidence.consumers, lambda a: np.abs(a).max(axis=1, initial=0.0), evidence.size)
    if not evidence.consumers:
        return made
    return np.minimum(made / (made.mean() or 1.0), used / (used.mean() or 1.0))


def _observed(evidence: Evidence) -> list[Consumer]:
    return [each for each in evidence.products if each.seen is not None and each.seen.count]


def _by_rows(evidence: Evidence, of: Callable[[Consumer], Array], random: np.random.Generator) -> Array:
    """Mean of a number for each row ``[groups * length]``, over the rows of each atom; else by weights."""
    found = [of(each)[each.rows] for each in _observed(evidence)]
    if not found:
        return _group_norm(evidence, random)
    return _total(found, lambda a: a.mean(axis=1), evidence.size)


def _activation(evidence: Evidence, random: np.random.Generator) -> Array:
    def magnitude(each: Consumer) -> Array:
        assert each.seen is not None
        return each.seen.magnitude.reshape(-1) / each.seen.count

    return _by_rows(evidence, magnitude, random)


def _apoz(evidence: Evidence, random: np.random.Generator) -> Array:
    """Hu et al., "Network Trimming", 2016: average percentage of zeros."""

    def share(each: Consumer) -> Array:
        assert each.seen is not None
        return each.seen.active.reshape(-1) / each.seen.count

    return _by_rows(evidence, share, random)


def _wanda(evidence: Evidence, random: np.random.Generator) -> Array:
    """Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023."""

    def product(each: Consumer) -> Array:
        assert each.seen is not None
        norms = np.sqrt(np.einsum("gii->gi", each.seen.moments)[:, :-1])
        return np.asarray((np.abs(each.weight).sum(axis=2) * norms).reshape(-1))

    return _by_rows(evidence, product, random)


def elimination_of(consumer: Consumer) -> Elimination:
    """The state from which atoms are taken away; with its bias, where it has one."""
    seen, product = consumer.seen, consumer.product
    assert seen is not None
    groups, length, outputs = consumer.weight.shape
    if not product.has_bias:
        return Elimination(consumer.weight, seen.moments[:, :-1, :-1], consumer.rows)
    stored = None if product.bias is None else product.bias.const_value
    bias = np.zeros(groups * outputs) if stored is None else stored.numpy().astype(np.float64)
    weight = np.concatenate([consumer.weight, bias.reshape(groups, 1, outputs)], axis=1)
    rows = consumer.rows + consumer.rows // length  # one row more in each group
    return Elimination(weight, seen.moments, rows, centred=True)


def _obs(evidence: Evidence, random: np.random.Generator) -> Array:
    """Hassibi and Stork, 1993: the error of removing one channel with the others standing in for it."""
    states = [elimination_of(each) for each in _observed(evidence)]
    if not states:
        return _group_norm(evidence, random)
    return np.asarray(np.sum([state.costs() for state in states], axis=0))


def _reconstruction(evidence: Evidence, random: np.random.Generator) -> Array:
    """The order in which channels go when each time the cheapest is taken, with all before it gone."""
    observed = _observed(evidence)
    if not observed:
        return _group_norm(evidence, random)
    return stepwise([elimination_of(each) for each in observed], evidence.size)


def _merge(evidence: Evidence, random: np.random.Generator) -> Array:
    """The order in which channels are merged when each time the cheapest is taken."""
    found = states(evidence)
    return stepwise(found, evidence.size) if found else _group_norm(evidence, random)


def _merge_pairs(evidence: Evidence, random: np.random.Generator) -> Array:
    errors = pairs(evidence)
    if errors is None:
        return _group_norm(evidence, random)
    order = pair_order(errors)
    most = order[np.isfinite(order)].max(initial=0.0)
    alone = ~np.isfinite(order)
    order[alone] = most + 1 + np.sort(errors, axis=1)[alone, 0].clip(max=1.0)
    return order


def stepwise(states: list[Elimination], size: int) -> Array:
    """Take a group apart, the cheapest atoms first; returns the error that was reached when each went."""
    longest = max(state.weight.shape[1] for state in states)
    step = max(1, size // (_STEPS if longest < _LONG else _STEPS // 2))
    score, left, error = np.zeros(size), np.arange(size), 0.0
    while len(left):
        costs = np.sum([state.costs(left) for state in states], axis=0)
        gone = left[np.argsort(costs, kind="stable")[:step]]
        error += max(float(sum(state.remove(gone) for state in states)), 0.0)
        score[gone] = error + np.arange(1, len(gone) + 1) * 1e-12
        left = np.setdiff1d(left, gone)
    return score


CRITERIA = (
    Criterion("random", _random, False, "any"),
    Criterion("l1", _l1, False, "sum of the magnitudes of the weights that make it"),
    Criterion("l2", _l2, False, "their norm"),
    Criterion("group-norm", _group_norm, False, "norm of all weights that would go with it"),
    Criterion("bn-scale", _norm_scale, False, "the scale of its normalisation"),
    Criterion("geometric-median", _geometric_median, False, "distance of its weights from all others'"),
    Criterion("sparsity", _sparsity, False, "zero where it is never made, or never used"),
    Criterion("activation", _activation, True, "mean magnitude of its values"),
    Criterion("apoz", _apoz, True, "how often it is not zero"),
    Criterion("wanda", _wanda, True, "magnitude of the weights that use it, times that of its values"),
    Criterion("obs", _obs, True, "error of removing it alone, with the others standing in for it"),
    Criterion("reconstruction", _reconstruction, True, "error of removing it after those worth less"),
    Criterion("merge", _merge, True, "error of making it a sum of the others", "many"),
    Criterion("merge-pairs", _merge_pairs, True, "error of making it a multiple of another", "one"),
)
