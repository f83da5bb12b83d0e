"""How each weight is stored: in the fewest bytes that keep the noise of all together inside what is allowed.

Measured is the noise that a weight brings into the outputs when it alone is stored in a form.  One session
serves all weights and forms: they become inputs with their old values as defaults, and one at a time is
given as it would be decoded.  Noises of independent roundings add up, so the choice is a knapsack: from the
smallest form of each weight, the exchanges that take away most noise for a byte are made until the sum is
allowed.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.products import product_inputs
from onnxslim.calibration.data import DataLike
from onnxslim.calibration.plan import make_plan
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.recipes.engine import Step
from onnxslim.recipes.noise import noise_to_signal
from onnxslim.runtime.client import RemoteSession, open_worker

__all__ = ["EIGHT_BITS", "HALVES", "REST", "Offer", "Storage", "Storing", "allocate", "inputs_of_weights"]

Feed = Mapping[str, Any]

_FEEDS, _SECONDS = 8, 40.0  # feeds that noise is measured on: so many, or fewer where they take longer
_HARDLY = 1.02
_SMALL = 0.002  # of all weights: what is smaller is not worth measurements of its own
_MOMENTS_BYTES = 1 << 30  # of all second moments together; what exceeds it is rounded to nearest
_CAP = 1e6  # of noise over signal: what is not finite is as bad

HALVES = HalveWeights()
EIGHT_BITS = (PackWeights(), PackWeights(block=32), HALVES)  # the forms, from small to large
REST: tuple[Step, ...] = (PackWeights(), HALVES)  # of branches and functions, and of whatever else is left


class Stored(Protocol):
    """A weight in the form of a pass."""

    @property
    def nbytes(self) -> int: ...

    def decode(self) -> npt.NDArray[Any]: ...


class Storing(Protocol):
    """A pass that stores weights in a form: all that it can, or ``only`` those of some names."""

    only: tuple[str, ...]

    def stored(self, model: ir.Model) -> Mapping[str, Stored]:
        """Initializers of the main graph as they would be stored; the model stays as it is."""


@dataclass(frozen=True)
class Offer:
    """A form of some weights: its number (None: as they are), its bytes, and its noise over signal."""

    form: int | None
    nbytes: float
    noise: float


@dataclass
class Storage:
    """Finds how to store the weights of one model.

    Args:
        model: the weights are initializers of its main graph.
        feeds: held-out inputs; without any, all weights are stored in the first form that takes them.
        forms: passes, the one that makes the smallest weights first.
    """

    model: ir.Model
    feeds: Sequence[Feed]
    forms: Sequence[Any] = EIGHT_BITS
    _chosen: dict[float, tuple[Step, ...]] = field(default_factory=dict)

    def steps(self, sqnr_db: float) -> tuple[Step, ...]:
        """The passes that leave about ``sqnr_db`` at the noisiest output."""
        if not self.feeds:
            return (*self.forms, *REST)
        if sqnr_db not in self._chosen:
            names: dict[int, list[str]] = {}
            groups, offers = [name for name, _ in self._offers], [offers for _, offers in self._offers]
            for group, offer in zip(groups, allocate(offers, sqnr_db), strict=True):
                if offer.form is not None:
                    names.setdefault(offer.form, []).extend(group)
            chosen = [replace(self.forms[form], only=tuple(names[form])) for form in sorted(names)]
            self._chosen[sqnr_db] = (*chosen, *REST)
        return self._chosen[sqnr_db]

    def knee(self, low_db: float, high_db: float) -> float:
        """The cleanest level from ``low_db`` to ``high_db`` that costs hardly more bytes than the first.

        Where few weights make most of the noise, much less of it is to be had for next to nothing.
        """
        if not self.feeds:
            return low_db
        limit = _HARDLY * self._bytes(low_db)
        levels = [float(level) for level in np.arange(high_db, low_db, -1)]
        return next((level for level in levels if self._bytes(level) <= limit), low_db)

    def _bytes(self, sqnr_db: float) -> float:
        return sum(offer.nbytes for offer in allocate([offers for _, offers in self._offers], sqnr_db))

    @cached_property
    def _offers(self) -> list[tuple[tuple[str, ...], tuple[Offer, ...]]]:
        """What every form of each weight costs; the small ones go together."""
        stored = [form.stored(self.model) for form in self.forms]
        tensors = {name: value.const_value for name, value in self.model.graph.initializers.items()}
        sizes = {
            name: tensor.size
            for name, tensor in tensors.items()
            if tensor is not None and any(name in form for form in stored)
        }
        total = sum(sizes.values())
        large = [name for name in sizes if sizes[name] >= _SMALL * total]
        small = tuple(name for name in sizes if sizes[name] < _SMALL * total)
        groups = [*((name,) for name in large), *([small] if small else [])]
        if not groups:
            return []
        with open_worker() as worker, worker.load(_lifted(self.model, list(sizes))) as session:
            noise = _Noise(session, self.feeds, len(groups) * len(self.forms))
            return [(group, tuple(self._offered(group, stored, noise))) for group in groups]

    def _offered(
        self, group: Sequence[str], stored: Sequence[Mapping[str, Stored]], noise: _Noise
    ) -> list[Offer]:
        found: list[Offer] = []
        integer = False
        for number, form in enumerate(stored):
            weights = {name: form[name] for name in group if name in form}
            if not weights:
                continue
            decoded = {name: weight.decode() for name, weight in weights.items()}
            integer = any(array.dtype == np.int8 for array in decoded.values())
            left = [self.model.graph.initializers[name].const_value for name in group if name not in form]
            nbytes = float(sum(weight.nbytes for weight in weights.values()))
            nbytes += sum(tensor.nbytes / 2 for tensor in left if tensor is not None)  # HALVES take the rest
            halved = isinstance(self.forms[number], HalveWeights)
            found.append(Offer(number, nbytes, 0.0 if halved else noise.of(decoded)))
        if integer:  # what is stored in 8 bits already may stay so
            kept = [self.model.graph.initializers[name].const_value for name in group]
            found.append(Offer(None, sum(tensor.nbytes for tensor in kept if tensor is not None), 0.0))
        return found


def allocate(offers: Sequence[Sequence[Offer]], sqnr_db: float) -> list[Offer]:
    """One offer of each weight, so that their noises together leave ``sqnr_db`` if they can, in few bytes.

    Greedy along the convex hulls of bytes and noise: at most one exchange more than the optimum would need
    (Everett, "Generalized Lagrange multiplier method", 1963).

    Example:
        >>> weights = [[Offer(0, 10, 0.02), Offer(1, 20, 0.0)], [Offer(0, 10, 0.005), Offer(1, 20, 0.0)]]
        >>> [offer.form for offer in allocate(weights, 20)]
        [1, 0]
    """
    allowed = 10 ** (-sqnr_db / 10)
    hulls = [_hull(each) for each in offers]
    chosen = [hull[0] for hull in hulls]
    exchanges = [
        ((one.noise - other.noise) / (other.nbytes - one.nbytes), number, other)
        for number, hull in enumerate(hulls)
        for one, other in itertools.pairwise(hull)
    ]
    for _, number, offer in sorted(exchanges, key=lambda exchange: exchange[0], reverse=True):
        if sum(each.noise for each in chosen) <= allowed:
            break
        chosen[number] = offer
    return chosen


def _hull(offers: Sequence[Offer]) -> list[Offer]:
    """The offers that are best at some price of noise, from few bytes to many."""
    hull: list[Offer] = []
    for offer in sorted(offers, key=lambda offer: (offer.nbytes, offer.noise)):
        if hull and offer.noise >= hull[-1].noise:
            continue
        while len(hull) > 1 and _gain(hull[-2], offer) >= _gain(hull[-2], hull[-1]):
            hull.pop()
        hull.append(offer)
    return hull


def _gain(one: Offer, other: Offer) -> float:
    return (one.noise - other.noise) / (other.nbytes - one.nbytes)


def inputs_of_weights(model: ir.Model, data: DataLike) -> Calibration | None:
    """Second moments of the tensors that constant weights are multiplied with; None where there are none."""
    plan = make_plan(model)
    observed = {tap.name for tap in (*plan.inputs, *plan.fetches)}
    names, left = [], _MOMENTS_BYTES
    for name, channels in product_inputs(model).items():
        size = 8 * channels**2
        if name in observed and size <= left:
            names.append(name)
            left -= size
    return calibrate(model, data, tensors=names, second_moments=names) if names else None


class _Noise:
    """Measures noise in the time that there is for all ``measurements``."""

    def __init__(self, session: RemoteSession, feeds: Sequence[Feed], measurements: int) -> None:
        begun = time.monotonic()
        session.run(feeds[0])
        begun = time.monotonic() - begun
        count = math.floor(_SECONDS / (measurements * max(begun, 1e-6)))
        self._session, self._feeds = session, feeds[: min(max(count, 1), _FEEDS)]
        self._reference = [session.run(feed) for feed in self._feeds]

    def of(self, weights: Mapping[str, npt.NDArray[Any]]) -> float:
        """Noise over signal of the noisiest output with other weights."""
        found = [self._session.run({**feed, **weights}) for feed in self._feeds]
        return min(noise_to_signal(self._reference, found), _CAP)


def _lifted(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """The model with weights as inputs, whose defaults are their values."""
    lifted = model.clone()
    lifted.graph.inputs.extend(
        lifted.graph.initializers[name]
        for name in names
        if not lifted.graph.initializers[name].is_graph_input()
    )
    lifted.ir_version = max(lifted.ir_version, 4)  # before, every initializer was an input
    return lifted
