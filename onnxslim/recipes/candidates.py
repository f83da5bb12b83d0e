"""What is worth trying to make a model smaller and faster: a few ways, from which the search takes the best.

Each candidate is a list of passes over the simplified model.  Whatever a candidate leaves in float, it packs.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onnxslim._ir import ir
from onnxslim.calibration.calibrators import Method
from onnxslim.calibration.data import DataLike
from onnxslim.calibration.store import Calibration
from onnxslim.errors import ModelError, OnnxSlimError, OptionError, ResourceError
from onnxslim.measure.latency import measure_latency
from onnxslim.model.build import serialized
from onnxslim.passes.pack_integers import PackIntegers
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_blocks import QuantizeBlocks
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.passes.quantize_ports import QuantizePorts
from onnxslim.passes.quantize_static import Activations, QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.narrow import Narrowing, inputs_of_weights, noise_of_weights, too_noisy
from onnxslim.recipes.noise import noise_to_signal, outputs_of
from onnxslim.recipes.unit_times import unit_times
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import DEFAULT_TARGET

__all__ = [
    "MODES",
    "UNCALIBRATED",
    "WEIGHTS",
    "Candidate",
    "candidates",
    "dynamic_candidate",
    "static_candidate",
]

_log = logging.getLogger(__name__)

_OUTLIERS_DB = 23.0  # activations noisier than this in 8 bits have outliers; most have 30 to 45
_TIMING_FEEDS = 4
_LOOK_S = 2.0  # of measuring a placement
_AS_FAST = 1.02
_METHODS: tuple[Method, ...] = ("minmax", "mse")
_PREDICTED_DB = 20.0  # of the noise that 4 bits bring in, where weights that bring much keep 8
_NOISE_FEEDS = 4
_BLOCK = 32  # weights that share a scale, in 4 bits
_CODES_OPSET = 11  # several codes to a byte need it
WEIGHTS = ("int8", "int4", "int2")
UNCALIBRATED = ("dynamic", "weight-only")  # modes that need no calibration
MODES = ("compress", "auto", "static", *UNCALIBRATED)


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
    activations: Activations = "",
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
        activations: the type of static activations; default the first of the target's.
        data: what 4-bit weights are fitted on.
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
        first = QuantizeStatic(calibration, target=name, activations=activations)
        if placed_for.is_cpu and feeds:
            first = _fastest(model, first, feeds)
        best = _least_noise(model, first, feeds)
        if weights != "int8" and feeds:
            found += _narrow_static(model, best, feeds)
        found.append(static_candidate(best))
        careful = replace(best, min_sqnr_db=_OUTLIERS_DB)
        if _node_count(model, careful) != _node_count(model, best):
            if mode != "static":
                found += _dynamic(model, name, (_raised(careful), careful))
            found.append(static_candidate(careful))
    if mode == "dynamic" or (mode in ("compress", "auto") and placed_for.is_cpu):
        found += _dynamic(model, name, required=mode == "dynamic")
    # where bytes alone decide, packed floats must not win against what was asked for
    integers_only = bool(found and placed_for.fusions) and not placed_for.is_cpu
    if mode in ("compress", "auto", "weight-only") and not integers_only:
        packed = _narrow(model, data, feeds) if weights != "int8" else []
        essential = "" if integer_io else PackWeights.name
        packed.append(Candidate("packed weights", (PackWeights(),), essential))
        if placed_for.is_cpu:
            found += _blocked(model, packed, feeds, two_bits=weights == "int2")
        found += packed
    if integer_io:
        ports = (RaiseOpset(), QuantizePorts(calibration))
        found = [replace(each, passes=(*each.passes, *ports)) for each in found]
    return found


def _raised(quantize: QuantizeStatic | QuantizeDynamic | QuantizeBlocks) -> RaiseOpset:
    return RaiseOpset(opset=quantize.min_opset)


def _dynamic(
    model: ir.Model, target: str, first: Sequence[Step] = (), *, required: bool = False
) -> list[Candidate]:
    """Products whose scales are found at run time: all, or those that ``first`` leaves in float."""
    quantize = QuantizeDynamic(target=target)
    candidate = dynamic_candidate(replace(quantize, check=False), (), first)
    if not (required or run_steps(model, candidate.passes).applied[-1].modified):
        return []
    return [dynamic_candidate(quantize, first=first)]


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


def _blocked(
    model: ir.Model, packed: Sequence[Candidate], feeds: Sequence[Mapping[str, Any]], *, two_bits: bool
) -> list[Candidate]:
    """The same with weights that the kernel itself decodes, where a product has few rows."""
    found = []
    for candidate in packed:
        pack = next(step for step in candidate.passes if isinstance(step, PackWeights))
        bits: Literal[8, 4, 2] = 2 if two_bits and pack.bits < 8 else pack.bits
        blocks = QuantizeBlocks(
            bits, wide=pack.wide, inputs=pack.inputs, held_out=pack.held_out, dims=_open_dims(model, feeds)
        )
        if not blocks.fits(model):
            break
        passes = [(_raised(blocks), blocks, step) if step is pack else (step,) for step in candidate.passes]
        name = candidate.name.replace("packed weights", "weights in blocks").replace("4 bits", f"{bits} bits")
        found.append(Candidate(name, tuple(itertools.chain(*passes)), essential=blocks.name))
    return found


def _open_dims(model: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The largest size in ``feeds`` of each dimension that the model names."""
    sizes: dict[str, int] = {}
    for value, feed in itertools.product(model.graph.inputs, feeds):
        for dim, size in zip(value.shape or (), np.shape(feed.get(value.name or "", ())), strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value:
                sizes[dim.value] = max(size, sizes.get(dim.value, 1))
    return sizes


def _narrow_static(
    model: ir.Model, quantize: QuantizeStatic, feeds: Sequence[Mapping[str, Any]]
) -> list[Candidate]:
    """Integer kernels whose weights are stored in 4 bits where they bring little noise."""
    outcome = run_steps(model, (_raised(quantize), quantize)).model
    integers, floats = PackIntegers(block=_BLOCK), PackWeights(bits=4, block=_BLOCK)
    wide = _too_noisy(outcome, (integers, floats), feeds)
    integers, floats = replace(integers, wide=wide), replace(floats, wide=wide)
    if not integers.narrow(outcome):
        return []
    name = f"{static_candidate(quantize).name}, stored in 4 bits"
    return [Candidate(name, (_raised(quantize), quantize, integers, floats), essential=quantize.name)]


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
    name = f"static int8, {quantize.method} ranges"
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
    return Candidate(name, (_raised(quantize), quantize, *packing), essential=quantize.name)


def dynamic_candidate(
    quantize: QuantizeDynamic, packing: Sequence[Step] = (PackWeights(),), first: Sequence[Step] = ()
) -> Candidate:
    """Products whose scales are found at run time, behind other passes; what stays in float packed."""
    name = "static int8, products with outliers dynamic" if first else "dynamic int8"
    if quantize.penalties:
        name += ", the noisiest parts in float"
    passes = (*first, _raised(quantize), quantize, *packing)
    return Candidate(name, passes, essential=quantize.name)


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
            built = run_steps(model, (_raised(form), form)).model
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
    return run_steps(model, (_raised(quantize), replace(quantize, check=False))).model.graph.num_nodes()


def _least_noise(
    model: ir.Model, first: QuantizeStatic, feeds: Sequence[Mapping[str, Any]]
) -> QuantizeStatic:
    """The ranges and biases that leave the least noise on ``feeds``."""
    best, least = first, math.inf
    if feeds:
        with open_worker() as worker:
            reference = outputs_of(worker, model, feeds)

            def consider(option: QuantizeStatic) -> None:
                nonlocal best, least
                try:
                    outcome = run_steps(model, (_raised(option), option)).model
                    noise = noise_to_signal(reference, outputs_of(worker, outcome, feeds))
                except (ModelError, ResourceError) as error:  # the runtime refuses it: not this one
                    _log.info("%s was not considered: %s", option.method, error.what)
                    return
                if noise < least:
                    best, least = option, noise

            for method in _METHODS:
                consider(replace(first, method=method))
            consider(replace(best, correct_bias=True))
    return best
