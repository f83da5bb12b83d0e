"""How each weight is stored: in the fewest bytes that keep the noise of all together inside what is allowed.

Measured is the noise that a weight brings in when it alone is stored in a form, at the outputs or where it
tells more (:func:`onnxslim.recipes.noise.telling_values`).  One session serves all weights and forms: they
become inputs with their old values as defaults, and one at a time is given as it would be decoded.  Noises
of independent roundings add up, so the choice is a knapsack: from the smallest form of each weight, the
exchanges that take away most noise for a byte are made until the sum is allowed.  What a choice really
leaves is then measured too.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.reductions import product_inputs
from onnxslim.calibration.data import DataLike
from onnxslim.calibration.plan import make_plan
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OnnxSlimError
from onnxslim.model import edit
from onnxslim.passes.base import Pass
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.recipes.engine import Step
from onnxslim.recipes.noise import Rows, noise_to_signal, observed_at, telling_values, typical_noise
from onnxslim.runtime.client import RemoteSession, open_worker

__all__ = [
    "CODES_OPSET",
    "EIGHT_BITS",
    "LEVELS_DB",
    "REST",
    "Choices",
    "Offer",
    "Storage",
    "Storing",
    "allocate",
    "inputs_of_weights",
]

_log = logging.getLogger(__name__)

Feed = Mapping[str, Any]

CODES_OPSET = 11  # blocks, and several codes to a byte, need it
_FEEDS, _SECONDS = 8, 40.0  # feeds that noise is measured on: so many, or fewer where they take longer
_LADDER_DB = range(-18, 91, 3)  # sums of single noises for which a choice is made and measured
_LEAST_DB = 15  # what rounding alone leaves that is worth trying
LEVELS_DB = (*(float(level) for level in range(24, 61, 3)), 90.0)  # the last is 16 bits
_HARDLY = 1.02
_SMALL = 0.002  # of all weights: what is smaller is not worth measurements of its own
_WEIGHTS_BYTES = 1 << 30  # of a model: all forms of larger ones would not fit into memory beside each other
_MOMENTS_BYTES = 1 << 30  # of all second moments together; what exceeds it is rounded to nearest
_CAP = 1e6  # of noise over signal: what is not finite is as bad

EIGHT_BITS = (PackWeights(), PackWeights(block=32), HalveWeights())  # the forms, from small to large
REST: tuple[Step, ...] = (
    PackWeights(),
    HalveWeights(),
)  # of branches and functions, and of whatever else is left


class Stored(Protocol):
    """A weight in the form of a pass."""

    @property
    def nbytes(self) -> int: ...

    def decode(self) -> npt.NDArray[Any]: ...


class Storing(Protocol):
    """A pass that stores weights in a form: all that it can, or ``only`` those of some names."""

    @property
    def only(self) -> tuple[str, ...]: ...

    def stored(self, model: ir.Model) -> Mapping[str, Stored]:
        """Initializers of the main graph as they would be stored; the model stays as it is."""


@dataclass(frozen=True)
class Offer:
    """A form of some weights: its number (None: as they are), its bytes, and its noise over signal."""

    form: int | None
    nbytes: float
    noise: float


class Choices(Protocol):
    """Ways to store the weights of a model, from noisy to clean."""

    @property
    def levels(self) -> Sequence[float]:
        """Signal to noise ratios that are worth trying, in dB."""

    @property
    def noises(self) -> Mapping[str, Sequence[tuple[float, float]]]:
        """Of each larger weight alone, (bytes, noise over signal) in every form, where that is known."""

    def steps(self, sqnr_db: float) -> tuple[Step, ...]:
        """The passes for a level."""


@dataclass
class Storage:
    """Finds how to store the weights of one model.

    Args:
        model: the weights are initializers of its main graph.
        feeds: held-out inputs; without any, and where the weights are beyond 1 GB, all weights are stored in
            the first form that takes them.
        forms: passes, the one that makes the smallest weights first.
        rest: passes for what the forms leave.
        levels: signal to noise ratios of choices that are worth trying, from noisy to clean.
        refit: fits a choice to the data once more.  What single noises sum up to then tells only which
            weights bear fewer bits, so nothing else is measured.
        noises: of each larger weight alone, (bytes, noise over signal) in every form, once they are known.
    """

    model: ir.Model
    feeds: Sequence[Feed]
    forms: Sequence[Storing] = EIGHT_BITS
    rest: Sequence[Step] = REST
    levels: Sequence[float] = LEVELS_DB
    refit: Callable[[Sequence[Pass]], Sequence[Pass]] | None = None
    noises: dict[str, list[tuple[float, float]]] = field(default_factory=dict, init=False)

    def steps(self, sqnr_db: float) -> tuple[Step, ...]:
        """The passes that leave ``sqnr_db`` at the noisiest output, or as much as the forms allow."""
        if not self.is_measured:
            return (*cast("Sequence[Pass]", self.forms), *self.rest)
        steps = self._plan(sqnr_db).steps
        return (*(self.refit(steps) if self.refit is not None else steps), *self.rest)

    def knee(self, low_db: float, high_db: float) -> float:
        """The cleanest level from ``low_db`` to ``high_db`` that costs hardly more bytes than the first.

        Where few weights make most of the noise, much less of it is to be had for next to nothing.
        """
        if not self.is_measured:
            return low_db
        limit = _HARDLY * self._plan(low_db).nbytes
        levels = [float(level) for level in np.arange(high_db, low_db, -1)]
        return next((level for level in levels if self._plan(level).nbytes <= limit), low_db)

    @property
    def _ladder(self) -> Sequence[int]:
        return [level for level in _LADDER_DB if level >= min(*self.levels, _LEAST_DB)]

    @property
    def is_measured(self) -> bool:
        """Whether forms are chosen by noise: there are feeds, and the weights are not too many."""
        tensors = (value.const_value for value in self.model.graph.initializers.values())
        whole = sum(each.nbytes for each in tensors if each is not None)
        return bool(self.feeds) and whole <= _WEIGHTS_BYTES

    def _plan(self, sqnr_db: float) -> _Plan:
        return next((plan for plan in self._plans if plan.sqnr_db >= sqnr_db), self._plans[-1])

    @cached_property
    def _plans(self) -> list[_Plan]:
        try:
            return self._measured()
        except OnnxSlimError as error:
            _log.info("the noise of weights could not be measured: %s", error.what)
            return [_Plan(math.inf, 0.0, ())]

    def _measured(self) -> list[_Plan]:
        """Choices of a form for each weight, from few bytes to many, with the noise of all together.

        It is not always the sum: a saturated output hides single noises and shows them together.
        """
        stored = [form.stored(self.model) for form in self.forms]
        graph = self.model.graph
        sizes = {
            name: value.const_value.size
            for name, value in graph.initializers.items()
            if value.const_value is not None and any(name in form for form in stored)
        }
        if not sizes:
            return [_Plan(math.inf, 0.0, ())]
        total = sum(sizes.values())
        small = tuple(name for name in sizes if sizes[name] < _SMALL * total)
        groups = [*((name,) for name in sizes if name not in small), *([small] if small else [])]
        with open_worker() as worker, worker.load(_lifted(self.model, list(sizes))) as session:
            noise = _Noise(session, self.feeds, len(groups) * len(self.forms) + len(self._ladder))
            offers = [self._offers(group, stored, noise) for group in groups]
            for group, found in zip(groups, offers, strict=True):
                sizes_and_noises = sorted((offer.nbytes, offer.noise) for offer in found)
                self.noises.update(dict.fromkeys(group if len(group) == 1 else (), sizes_and_noises))
            plans: list[_Plan] = []
            known: list[Offer] = []
            for level in self._ladder:
                chosen = allocate(offers, level)
                if chosen == known:
                    continue
                known, names = chosen, defaultdict[int, list[str]](list)
                decoded: dict[str, npt.NDArray[Any]] = {}
                for group, offer in zip(groups, chosen, strict=True):
                    if offer.form is not None:
                        names[offer.form] += group
                        form = stored[offer.form]
                        decoded |= {name: form[name].decode() for name in group if name in form}
                steps = [
                    replace(cast("Any", self.forms[form]), only=tuple(names[form])) for form in sorted(names)
                ]
                sqnr_db = float(level)
                if self.refit is None:
                    sqnr_db = noise.reached(decoded)
                plans.append(_Plan(sqnr_db, sum(offer.nbytes for offer in chosen), tuple(steps)))
        return plans

    def _offers(
        self, group: Sequence[str], stored: Sequence[Mapping[str, Stored]], noise: _Noise
    ) -> list[Offer]:
        tensors = {name: self.model.graph.initializers[name].const_value for name in group}
        whole = {name: tensor.nbytes for name, tensor in tensors.items() if tensor is not None}
        found: list[Offer] = []
        for number, form in enumerate(stored):
            weights = {name: form[name] for name in group if name in form}
            if not weights:
                continue
            nbytes = sum(weights[name].nbytes if name in weights else whole[name] / 2 for name in group)
            halved = isinstance(self.forms[number], HalveWeights)  # they take what the others leave
            decoded = {} if halved else {name: weight.decode() for name, weight in weights.items()}
            found.append(Offer(number, nbytes, noise.of(decoded)))
        if all(tensor is not None and tensor.dtype == ir.DataType.INT8 for tensor in tensors.values()):
            found.append(Offer(None, sum(whole.values()), 0.0))  # what has 8 bits may keep them
        return found


@dataclass(frozen=True)
class _Plan:
    """The passes of a choice; the signal to noise that it leaves, measured, and the bytes of all weights."""

    sqnr_db: float
    nbytes: float
    steps: tuple[Pass, ...]


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
    plan = make_plan(edit.copy_of(model))  # which takes tensors out of bodies
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
        """Noise over signal with other weights, as choices are ranked by it."""
        return min(typical_noise(self._reference, self._found(weights)), _CAP)

    def reached(self, weights: Mapping[str, npt.NDArray[Any]]) -> float:
        """Signal to noise of the noisiest output over all feeds, in dB, with a choice for all weights."""
        noise = min(noise_to_signal(self._reference, self._found(weights)), _CAP)
        return -10 * math.log10(noise) if noise else math.inf

    def _found(self, weights: Mapping[str, npt.NDArray[Any]]) -> Rows:
        if not weights:
            return self._reference
        return [self._session.run({**feed, **weights}) for feed in self._feeds]


def _lifted(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """The model, as far as it tells noise, with weights as inputs, whose defaults are their values."""
    lifted = observed_at(model, telling_values(model))
    if any(name not in lifted.graph.initializers for name in names):  # what comes later tells of the rest
        lifted = model.clone()
    weights = [lifted.graph.initializers[name] for name in names]
    lifted.graph.inputs.extend(weight for weight in weights if not weight.is_graph_input())
    lifted.ir_version = max(lifted.ir_version, 4)  # before, every initializer was an input
    return lifted
