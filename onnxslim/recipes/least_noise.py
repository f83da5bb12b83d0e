"""Less noise at equal speed: ranges, biases and scales of channels, chosen by the error on held-out data.

Whatever is tried is kept only where it lowers the noise of the whole model on feeds that it was not fitted
to, so that nothing here can make a form worse.  Noise is measured where it tells most
(:func:`onnxslim.recipes.noise.telling_values`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.calibration.calibrators import Method
from onnxslim.calibration.data import DataLike, open_feeds
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OnnxSlimError
from onnxslim.model import edit
from onnxslim.ops.registry import is_dequantize, is_quantize
from onnxslim.passes.equalize_channels import EqualizeChannels
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.noise import Rows, noise_to_signal, observed_at, outputs_of, telling_values, total_noise
from onnxslim.runtime.client import Worker, open_worker

__all__ = ["least_noise"]

_log = logging.getLogger(__name__)

_METHODS: tuple[Method, ...] = ("minmax", "mse")
_RANGES: tuple[Method, ...] = ("minmax", "mse", "percentile")
_BALANCES = (1.0, 0.5)
_GROUPS = 12  # of activations in the order of the graph; each takes the best of the methods
_FEEDS = 8  # that these are chosen on
_SECONDS = 60.0  # after which the groups that are left keep what they have

Feeds = Sequence[Mapping[str, Any]]
Array = npt.NDArray[Any]


def least_noise(
    model: ir.Model, first: QuantizeStatic, feeds: Feeds, data: DataLike | None = None
) -> QuantizeStatic:
    """The form of ``first`` that leaves the least noise on ``feeds``, placed where ``first`` is.

    In this order: one method for all ranges, with and without corrected biases; channels equalized; a method
    for each group of activations.

    Args:
        model: in float.
        feeds: held-out inputs; without any, ``first`` is the answer.
        data: what the calibration was made on, to choose by and to calibrate the equalized model on; without
            it, there is one method for all ranges, and channels stay as they are.
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
            try:
                search.consider(_grouped(worker, raised, search.best, chosen), "a method for each group")
            except OnnxSlimError as error:
                _log.info("there is one method for all ranges: %s", error.what)
        return search.best


class _Search:
    """Keeps the least noisy form that it has seen: less where it tells, and not more at the outputs."""

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
        noise = total_noise(self._reference[0], telling)
        at_outputs = noise_to_signal(self._reference[1], outputs)
        _log.info("%s: noise %.3g of the signal, %.3g at the outputs", what, noise, at_outputs)
        if not (noise < self._least and at_outputs <= self._outputs):
            return False
        self.best, self._least, self._outputs = form, noise, at_outputs
        return True


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


@dataclass(frozen=True)
class _Scale:
    """Where a quantized model keeps the scale and the zero point of an activation."""

    activation: str
    scale: str
    zero_point: str

    def over(self, form: QuantizeStatic, low: float, high: float) -> dict[str, Array]:
        """Both for a range, as inputs of the model."""
        scale, zero = form.encoding(low, high)
        return {self.scale: np.array(scale), self.zero_point: np.array(zero)}


def _grouped(worker: Worker, model: ir.Model, form: QuantizeStatic, feeds: Feeds) -> QuantizeStatic:
    """The form with a method of its own for each group of activations, chosen one group after the other.

    One session serves all: scales and zero points become its inputs, with their old values as defaults.
    """
    names = telling_values(model)
    built = observed_at(run_steps(model, (form,)).model, names)
    scales = [each for each in _scales(built) if form.calibration and each.activation in form.calibration]
    for each in scales:
        _keep_biases(built.graph, built.graph.initializers[each.scale])
        built.graph.inputs.extend(built.graph.initializers[name] for name in (each.scale, each.zero_point))
    built.ir_version = max(built.ir_version, 4)  # before, every initializer was an input
    reference = outputs_of(worker, observed_at(model, names), feeds)
    given: dict[str, Array] = {}
    ranges = dict(form.ranges)
    with worker.load(built) as session:

        def noise(inputs: Mapping[str, Array]) -> float:
            found: Rows = [session.run({**feed, **inputs}) for feed in feeds]
            return total_noise(reference, found)

        least = noise({})
        size = max(1, math.ceil(len(scales) / _GROUPS))
        begun = time.monotonic()
        for start in range(0, len(scales), size):
            if time.monotonic() - begun > _SECONDS:
                _log.info("%d activations keep their ranges: there was no time", len(scales) - start)
                break
            group, best = scales[start : start + size], dict[str, tuple[float, float]]()
            for method in _RANGES:
                tried = {
                    each.activation: replace(form, method=method).range_of(each.activation) for each in group
                }
                if all(form.range_of(name) == found for name, found in tried.items()):
                    continue
                inputs = {k: v for each in group for k, v in each.over(form, *tried[each.activation]).items()}
                if (found := noise({**given, **inputs})) < least:
                    least, best, kept = found, tried, inputs
            if best:
                ranges |= best
                given |= kept
    return replace(form, ranges=ranges)


def _keep_biases(graph: ir.Graph, scale: ir.Value) -> None:
    """Let the scales of biases, which are products, hold the number that the integers were rounded with."""
    number = edit.constant_value(scale)
    assert number is not None
    for node, index in list(scale.uses()):
        if not (is_quantize(node) or is_dequantize(node)):
            node.replace_input_with(index, edit.add_initializer(graph, number, f"{scale.name}_of_bias"))


def _scales(model: ir.Model) -> list[_Scale]:
    """Those of the activations, in the order of the graph; one that several share is named by the first."""
    found: dict[str, _Scale] = {}
    for node in model.graph:
        if is_quantize(node) and len(node.inputs) > 2:
            value, scale, zero = (node.inputs[i] for i in range(3))
            if value is None or scale is None or zero is None or not scale.is_initializer():
                continue
            name = str(scale.name)
            found.setdefault(name, _Scale(str(value.name), name, str(zero.name)))
    return list(found.values())
