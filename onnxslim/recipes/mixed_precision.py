"""Which parts of a model may be integers inside a budget: those that gain most time for their noise.

The noise of a part is what the outputs show when it alone is quantized; noise of several parts adds up, near
enough to choose by.  A price on noise turns the choice into the placement that there is already (a minimum
cut over times): the higher the price, the more stays in float.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from onnxslim._ir import ir
from onnxslim.analysis.shapes import infer
from onnxslim.errors import OnnxSlimError
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.noise import outputs_of, typical_noise
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.targets.placement import place
from onnxslim.runtime.targets.units import Unit, find_units

__all__ = ["most_precise", "unit_noise", "with_less_noise"]

_Form = TypeVar("_Form", bound=QuantizeStatic | QuantizeDynamic)

_log = logging.getLogger(__name__)

_GROUPS = 40  # so many forms of the model are run; units beyond share a form with their neighbours
_LEVELS = tuple(2.0 ** (-i / 2) for i in range(1, 17))  # of the noise of everything, from most to least
_PRICES = 40  # steps of bisection, each a minimum cut


def unit_noise(
    model: ir.Model, quantize: QuantizeStatic | QuantizeDynamic, feeds: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Noise over signal at the outputs, by the output of the unit that alone is quantized.

    Args:
        model: in float, of an opset that can be quantized.
        quantize: if static, with a calibration of the model.
        feeds: held-out inputs.

    Raises:
        ModelError: the model does not run on the feeds.
    """
    units, _ = find_units(model.graph, quantize.costs)
    size = math.ceil(len(units) / _GROUPS) or 1
    noise: dict[str, float] = {}
    with open_worker() as worker:
        reference = outputs_of(worker, model, feeds, "all")
        for start in range(0, len(units), size):
            group = units[start : start + size]
            chosen = {unit.output.name or "" for unit in group}
            only = {
                name: (1e15, 0.0) if name in chosen else (0.0, 1e15)
                for name in (unit.output.name or "" for unit in units)
            }
            form = replace(quantize, times=only, penalties={}, placement="pays", check=False)
            try:
                found = outputs_of(worker, run_steps(model, (form,)).model, feeds, "all")
            except OnnxSlimError as error:
                _log.info("the noise of %s is not known: %s", ", ".join(chosen), error.what)
                continue
            total = typical_noise(reference, found)
            noise.update({name: total / len(group) for name in chosen})
    return noise


def with_less_noise(model: ir.Model, quantize: _Form, noise: Mapping[str, float], share: float) -> _Form:
    """The fastest placement whose predicted noise is at most ``share`` of that of ``quantize``.

    Found by the price of noise, so units are given up in the order of the time that they gain for it.
    """
    target, shapes = quantize.costs, infer(model)
    units, _ = find_units(model.graph, target)

    def placed(price: float) -> tuple[dict[str, float], float]:
        penalties = {name: price * value for name, value in noise.items()}
        kept: Sequence[Unit] = place(units, target, shapes, quantize.times, penalties).units
        return penalties, sum(noise.get(unit.output.name or "", 0.0) for unit in kept)

    _, everything = placed(0.0)
    low, high = 1e-3, 1e18  # nanoseconds for as much noise as signal
    for _ in range(_PRICES):
        middle = math.sqrt(low * high)
        if placed(middle)[1] <= share * everything:
            high = middle
        else:
            low = middle
    return replace(quantize, placement="pays", penalties=placed(high)[0])


def most_precise(
    model: ir.Model,
    quantize: _Form,
    feeds: Sequence[Mapping[str, Any]],
    accepts: Callable[[ir.Model], bool],
) -> _Form | None:
    """The form with the most integers that is accepted; None where even the least noisy one is not.

    Args:
        quantize: a form that was not accepted.
        accepts: whether a model is inside the budget.
    """
    raised = run_steps(model, (RaiseOpset(opset=quantize.min_opset),)).model
    noise = unit_noise(raised, quantize, feeds)
    best: _Form | None = None
    low, high = 0, len(_LEVELS)  # of the levels below ``low`` none is accepted, that at ``high`` is
    while low < high:
        middle = (low + high) // 2
        form = with_less_noise(raised, quantize, noise, _LEVELS[middle])
        if accepts(run_steps(raised, (form,)).model):
            best, high = form, middle
        else:
            low = middle + 1
    return best
