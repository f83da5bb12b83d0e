"""Less noise at equal speed: ranges, biases and scales of channels, chosen by the error on held-out data.

Whatever is tried is kept only where it lowers the noise of the whole model on feeds that it was not fitted
to, so that nothing here can make a form worse.  Noise is measured where it tells most
(:func:`onnxslim.recipes.noise.telling_values`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.calibration.calibrators import Method
from onnxslim.calibration.data import DataLike, open_feeds
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OnnxSlimError
from onnxslim.model import edit
from onnxslim.passes._scaling import scale_channels
from onnxslim.passes.equalize_channels import EqualizeChannels
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.fitted_weights import fitted_integers
from onnxslim.recipes.noise import Rows, observed_at, outputs_of, telling_values, typical_noise
from onnxslim.recipes.pruning.samples import held
from onnxslim.recipes.range_ends import End, with_ends
from onnxslim.runtime.client import Worker, open_worker

__all__ = ["least_noise"]

_log = logging.getLogger(__name__)

_METHODS: tuple[Method, ...] = ("minmax", "mse")
_BALANCES = (1.0, 0.5)
_ENDS: tuple[End, ...] = ("low", "high")
_FEEDS = 32  # that these are chosen on
_FITTED = 128  # samples that weights are rounded by
_WORK = 1e12  # cubes of the lengths of products: a minute or two
_AT_OUTPUTS = 2.0  # times the least noise that was seen there; what saturates varies as much by chance

Feeds = Sequence[Mapping[str, Any]]
Array = npt.NDArray[Any]


def least_noise(
    model: ir.Model, first: QuantizeStatic, feeds: Feeds, data: DataLike | None = None
) -> QuantizeStatic:
    """The form of ``first`` that leaves the least noise on ``feeds``, placed where ``first`` is.

    In this order: one method for all ranges, with and without corrected biases; channels equalized; the low
    ends of single ranges, then the high ones; weights rounded by what they are multiplied with.

    Args:
        model: in float.
        feeds: held-out inputs; without any, ``first`` is the answer.
        data: what the calibration was made on, to choose ends by and to calibrate the equalized model on;
            without it, there is one method for all ranges, and channels stay as they are.
    """
    if not feeds:
        return first
    raised = run_steps(model, (RaiseOpset(opset=first.min_opset),)).model
    with open_worker() as worker:
        search = _Search(worker, raised, feeds, first)
        for method in _METHODS:
            search.consider(replace(first, method=method), method)
            search.consider(replace(first, method=method, correct_bias=True), f"{method}, biases corrected")
        for balance in _BALANCES if data is not None else ():
            for form in _equalized(raised, search.best, data, balance):
                search.consider(form, f"equalizing channels, balance {balance:g}")
        if data is not None:
            chosen = list(open_feeds(data, model).spread(_FEEDS))
            for end in _ENDS:
                try:
                    search.consider(
                        with_ends(worker, raised, search.best, chosen, end), f"{end} ends of ranges"
                    )
                except OnnxSlimError as error:
                    _log.info("the %s ends of ranges were not looked for: %s", end, error.what)
            with_known = _rounded(raised, search.best, data)
            if with_known.known:
                search.consider(with_known, "weights rounded by GPTQ")
        return search.best


class _Search:
    """Keeps the form with the least noise where it tells, and at most twice the least at the outputs."""

    def __init__(self, worker: Worker, model: ir.Model, feeds: Feeds, first: QuantizeStatic) -> None:
        self._worker, self._model, self._feeds = worker, model, feeds
        self._names = telling_values(model)
        self._reference = self._run(model)
        self.best, self._least, self._outputs = first, math.inf, math.inf

    def _run(self, model: ir.Model) -> tuple[Rows, Rows]:
        """What tells, and the outputs."""
        outputs = [output.name or "" for output in self._model.graph.outputs]
        names = list(dict.fromkeys((*self._names, *outputs)))
        rows = outputs_of(self._worker, observed_at(model, names), self._feeds)
        places = [[names.index(name) for name in which] for which in (self._names, outputs)]
        telling, last = ([[row[place] for place in where] for row in rows] for where in places)
        return telling, last

    def consider(self, form: QuantizeStatic, what: str) -> bool:
        """Whether the form is better than all before it."""
        try:
            built = run_steps(self._model, (form,)).model
            telling, outputs = self._run(built)
        except OnnxSlimError as error:  # the runtime refuses it: not this one
            _log.info("%s was not considered: %s", what, error.what)
            return False
        noise = typical_noise(self._reference[0], telling)
        at_outputs = typical_noise(self._reference[1], outputs)
        _log.info("%s: noise %.3g of the signal, %.3g at the outputs", what, noise, at_outputs)
        self._outputs = min(self._outputs, at_outputs)
        if not (noise < self._least and at_outputs <= _AT_OUTPUTS * self._outputs):
            return False
        self.best, self._least = form, noise
        return True


def _rounded(model: ir.Model, form: QuantizeStatic, data: DataLike) -> QuantizeStatic:
    """The form with the integers of weights that leave least noise behind their products."""
    base = edit.copy_of(model)
    scale_channels(base, form.factors)
    try:
        samples = held(open_feeds(data, model).spread(_FITTED))
        [known] = fitted_integers(base, run_steps(model, (form,)).model, samples, (8,), 0, _WORK)
    except OnnxSlimError as error:
        _log.info("weights were not rounded by GPTQ: %s", error.what)
        return form
    return replace(form, known=known)


def _equalized(
    model: ir.Model, form: QuantizeStatic, data: DataLike | None, balance: float
) -> Iterator[QuantizeStatic]:
    """The form with equalized channels, if there are any to equalize."""
    equalize = EqualizeChannels(form.calibration, balance)
    if data is not None and (factors := equalize.factors(model)):
        try:
            calibration = calibrate(run_steps(model, (equalize,)).model, data)
        except OnnxSlimError as error:
            _log.info("channels were not equalized: %s", error.what)
            return
        yield replace(form, calibration=calibration, factors=factors)
