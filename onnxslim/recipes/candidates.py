"""What is worth trying to make a model smaller and faster: a few ways, from which the search takes the best.

Each candidate is a list of passes over the simplified model.  Whatever a candidate leaves in float, it packs.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.calibration.data import DataLike
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OnnxSlimError, OptionError
from onnxslim.measure.latency import measure_latency
from onnxslim.model.build import serialized
from onnxslim.passes.pack_integers import PackIntegers
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_ports import QuantizePorts
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.least_noise import least_noise
from onnxslim.recipes.narrow import Narrowing, inputs_of_weights, noise_of_weights, too_noisy
from onnxslim.recipes.unit_times import unit_times
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import DEFAULT_TARGET

__all__ = ["MODES", "WEIGHTS", "Candidate", "candidates", "static_candidate"]

_log = logging.getLogger(__name__)

_OUTLIERS_DB = 23.0  # activations noisier than this in 8 bits have outliers; most have 30 to 45
_TIMING_FEEDS = 4
_LOOK_S = 2.0  # of measuring a placement
_AS_FAST = 1.02
_PREDICTED_DB = 20.0  # of the noise that 4 bits bring in, where weights that bring much keep 8
_NOISE_FEEDS = 4
_BLOCK = 32  # weights that share a scale, in 4 bits
_CODES_OPSET = 11  # several codes to a byte need it
WEIGHTS = ("int8", "int4")
MODES = ("compress", "auto", "static", "weight-only")


@dataclass(frozen=True)
class Candidate:
    """A way to compress a model.

    Attributes:
        name: for the report.
        passes: what to apply, in order.
        essential: the name of the pass without whose effect the candidate is not worth trying.
    """

    name: str
    passes: Sequence[Step]
    essential: str = ""


def candidates(
    model: ir.Model,
    calibration: Calibration | None,
    *,
    target: str | None = None,
    mode: str = "compress",
    weights: str = "int4",
    data: DataLike | None = None,
    feeds: Sequence[Mapping[str, Any]] = (),
    integer_io: bool = False,
) -> list[Candidate]:
    """The ways to try on ``model``, the most promising first.

    Args:
        model: the simplified model.
        calibration: of this model; without one there are no static candidates.
        target: what to place integers for; default this machine.
        mode: ``compress`` and ``auto`` try everything, the others one kind.
        weights: the fewest bits that weights are stored in.
        data: what 4-bit weights are fitted on, and equalized channels calibrated on.
        feeds: held-out feeds that decide how static ranges are found, whether biases are corrected, which
            weights keep 8 bits, and how the others are rounded.
        integer_io: quantize inputs and outputs too, so that they can become integers.

    Raises:
        OptionError: no such mode, target or type of weights.
    """
    if weights not in WEIGHTS:
        raise OptionError(f"there is no type of weights {weights!r}", hint="one of: " + ", ".join(WEIGHTS))
    if mode not in MODES:
        raise OptionError(f"there is no mode {mode!r}", hint="one of: " + ", ".join(MODES))
    placed_for = load_target(target or DEFAULT_TARGET)
    name = placed_for.name
    found: list[Candidate] = []
    if mode in ("compress", "auto", "static") and calibration is not None:
        first = QuantizeStatic(calibration, target=name)
        if placed_for.is_cpu and feeds:
            first = _fastest(model, first, feeds)
        best = least_noise(model, first, feeds, data)
        if weights == "int4" and feeds:
            found += _narrow_static(model, best, feeds)
        found.append(static_candidate(best))
        careful = replace(best, min_sqnr_db=_OUTLIERS_DB)
        if _node_count(model, careful) != _node_count(model, best):
            found.append(static_candidate(careful))
    # where bytes alone decide, packed floats must not win against what was asked for
    integers_only = bool(found and placed_for.fusions) and not placed_for.is_cpu
    if mode in ("compress", "auto", "weight-only") and not integers_only:
        if weights == "int4":
            found += _narrow(model, data, feeds)
        essential = "" if integer_io else PackWeights.name
        found.append(Candidate("packed weights", (PackWeights(),), essential))
    if integer_io:
        ports = (RaiseOpset(), QuantizePorts(calibration))
        found = [replace(each, passes=(*each.passes, *ports)) for each in found]
    return found


def _narrow(model: ir.Model, data: DataLike | None, feeds: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """Weights of 4 bits: those that bring little noise, then all that can be."""
    integers, pack = PackIntegers(block=_BLOCK), PackWeights(bits=4, block=_BLOCK)
    if not (integers.narrow(model) or pack.narrow(model)):
        return []
    wide = () if not feeds else _too_noisy(model, (integers, pack), feeds)
    name = "packed weights, 4 bits"
    if data is not None and (inputs := inputs_of_weights(model, data)) is not None:
        held_out = inputs_of_weights(model, list(feeds)) if feeds else None
        pack, name = replace(pack, inputs=inputs, held_out=held_out), name + " by GPTQ"
    raised = RaiseOpset(opset=_CODES_OPSET)
    found = [Candidate(name, (raised, integers, pack), essential=pack.name)]
    if wide:
        some = replace(integers, wide=wide), replace(pack, wide=wide)
        found.append(Candidate(f"{name}, sensitive ones 8", (raised, *some), essential=pack.name))
    return found


def _narrow_static(
    model: ir.Model, quantize: QuantizeStatic, feeds: Sequence[Mapping[str, Any]]
) -> list[Candidate]:
    """Integer kernels whose weights are stored in 4 bits where they bring little noise."""
    outcome = run_steps(model, (RaiseOpset(), quantize)).model
    integers, floats = PackIntegers(block=_BLOCK), PackWeights(bits=4, block=_BLOCK)
    wide = _too_noisy(outcome, (integers, floats), feeds)
    integers, floats = replace(integers, wide=wide), replace(floats, wide=wide)
    if not integers.narrow(outcome):
        return []
    name = f"{static_candidate(quantize).name}, stored in 4 bits"
    return [Candidate(name, (RaiseOpset(), quantize, integers, floats), essential=quantize.name)]


def _too_noisy(
    model: ir.Model, packings: Sequence[Narrowing], feeds: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    noises: dict[str, float] = {}
    with open_worker() as worker:
        for packing in packings:
            noises |= noise_of_weights(worker, model, packing, feeds[:_NOISE_FEEDS])
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    sizes = {name: tensor.size for name, tensor in tensors.items() if tensor is not None}
    return too_noisy(noises, sizes, _PREDICTED_DB)


def static_candidate(quantize: QuantizeStatic, packing: Sequence[Step] = (PackWeights(),)) -> Candidate:
    """Static quantization, and what stays in float packed."""
    chosen = ", chosen part by part" if quantize.ranges else ""
    name = f"static int8, {quantize.method} ranges{chosen}"
    if quantize.factors:
        name += ", equalized channels"
    if quantize.correct_bias:
        name += ", corrected biases"
    if quantize.min_sqnr_db:
        name += ", outliers in float"
    if quantize.placement == "all":
        name += ", wherever there is a kernel"
    elif quantize.penalties:
        name += ", the noisiest parts in float"
    elif quantize.times:
        name += ", placed by times measured here"
    return Candidate(name, (RaiseOpset(), quantize, *packing), essential=quantize.name)


def _fastest(model: ir.Model, quantize: QuantizeStatic, feeds: Sequence[Mapping[str, Any]]) -> QuantizeStatic:
    """The placement that is fastest here: by the target's costs, by times of single units, or everywhere.

    A table knows layouts and conversions, times know this machine and these inputs, and now and then both are
    wrong; the whole decides.  The first that is as fast as any, to the width of a quick look, is taken.
    """
    feeds = feeds[:_TIMING_FEEDS]
    forms = [quantize, replace(quantize, placement="all")]
    try:
        forms.insert(1, replace(quantize, times=unit_times(model, quantize, feeds)))
    except OnnxSlimError as error:
        _log.info("units were not timed: %s", error.what)
    ratios: dict[int, float] = {}
    seen: dict[bytes, int] = {}
    for number, form in enumerate(forms):
        try:
            built = run_steps(model, (RaiseOpset(), form)).model
            digest = hashlib.sha256(serialized(built).SerializeToString()).digest()
            if (twin := seen.setdefault(digest, number)) != number:
                ratios[number] = ratios.get(twin, math.inf)
            else:
                ratios[number] = measure_latency(model, built, feeds=feeds, budget_s=_LOOK_S).ratio
        except OnnxSlimError as error:
            _log.info("a placement was not tried: %s", error.what)
    best = min(ratios.values(), default=math.inf)
    return next((forms[i] for i, ratio in sorted(ratios.items()) if ratio <= _AS_FAST * best), quantize)


def _node_count(model: ir.Model, quantize: QuantizeStatic) -> int:
    """How many nodes there are with it: the fewer, the less is quantized."""
    return run_steps(model, (RaiseOpset(), replace(quantize, check=False))).model.graph.num_nodes()
