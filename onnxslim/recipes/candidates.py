"""What is worth trying to make a model smaller and faster: a few ways, from which the search takes the best.

Each candidate is a list of passes over the simplified model.  Whatever a candidate leaves in float, it packs.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.calibration.data import DataLike
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OnnxSlimError, OptionError
from onnxslim.measure.latency import measure_latency
from onnxslim.measure.setting import Setting
from onnxslim.model.build import serialized
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.passes.quantize_ports import QuantizePorts
from onnxslim.passes.quantize_static import Activations, QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.few_bits import (
    Moments,
    binary_weights,
    in_blocks,
    in_few_bits,
    moments_of,
    packed_in_few_bits,
)
from onnxslim.recipes.integer_signs import integer_signs
from onnxslim.recipes.least_noise import least_noise
from onnxslim.recipes.storage import CODES_OPSET, REST, Storage
from onnxslim.recipes.unit_times import unit_times
from onnxslim.reconstruct.binary import MAX_BASES
from onnxslim.reconstruct.float8 import FLOAT8
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import DEFAULT_TARGET

__all__ = [
    "MODES",
    "UNCALIBRATED",
    "WEIGHTS",
    "candidates",
    "dynamic_candidate",
    "parse_weights",
    "static_candidate",
]

_log = logging.getLogger(__name__)

_OUTLIERS_DB = 23.0  # activations noisier than this in 8 bits have outliers; most have 30 to 45
_TIMING_FEEDS = 4
_LOOK_S = 2.0  # of measuring a placement
_AS_FAST = 1.02
_PACKED_DB = (30.0, 40.0)  # what storage alone may leave of the outputs: at least, and where it is cheap
WEIGHTS = {"int8": 8, "int4": 4, "int2": 2, "binary": 1}  # the fewest bits
UNCALIBRATED = ("dynamic", "weight-only")  # modes that need no calibration
_STORING = ("compress", "auto", "weight-only")  # modes in which weights alone may be small
MODES = ("compress", "auto", "static", *UNCALIBRATED)


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
    threads: Sequence[int] = (1,),
) -> list[Candidate]:
    """The ways to try on ``model``, the most promising first.

    Args:
        model: the simplified model.
        calibration: of this model; without one there are no static candidates.
        target: what to place integers for; default this machine.
        mode: ``compress`` and ``auto`` try everything, the others one kind.
        weights: the fewest bits that weights are stored in; ``binary:2`` allows two signs for each weight.
        activations: the type of static activations; default the first of the target's.
        data: what 4-bit weights are fitted on, and equalized channels calibrated on.
        feeds: held-out feeds that decide how static ranges are found, whether biases are corrected, which
            weights keep 8 bits, and how the others are rounded.
        integer_io: quantize inputs and outputs too, so that they can become integers.
        threads: numbers of them that placements are timed with.

    Raises:
        OptionError: no such mode, target or type of weights.
    """
    kind, bases = parse_weights(weights)
    if mode not in MODES:
        raise OptionError(f"there is no mode {mode!r}", hint="one of: " + ", ".join(MODES))
    placed_for = load_target(target or DEFAULT_TARGET)
    name = placed_for.name
    found: list[Candidate] = []
    packed = packed_candidate(model, feeds)
    fitted = moments_of(model, data, feeds) if kind != "int8" and mode in _STORING else Moments()
    binary: list[Candidate] = []
    if kind == "binary" and mode != "dynamic":
        binary += binary_weights(model, bases, data, fitted, feeds)
    if mode in ("compress", "auto", "static") and calibration is not None:
        first = QuantizeStatic(calibration, target=name, activations=activations)
        if placed_for.is_cpu and feeds:
            first = _fastest(model, first, feeds, threads)
        best = least_noise(model, first, feeds, data)
        static = static_candidate(best, packed.packing)
        if binary:
            plain = first if best.factors else replace(best, correct_bias=False)
            found.append(integer_signs(binary[0], plain))
        elif kind != "int8" and feeds:
            found += in_few_bits(model, static, WEIGHTS[kind], feeds, data)
        found.append(static)
        careful = replace(best, min_sqnr_db=_OUTLIERS_DB)
        if _node_count(model, careful) != _node_count(model, best):
            if mode != "static":
                found += _dynamic(model, name, packed.packing, (_raised(careful), careful))
            found.append(static_candidate(careful, packed.packing))
    if mode == "dynamic" or (mode in ("compress", "auto") and placed_for.is_cpu):
        found += _dynamic(model, name, packed.packing, required=mode == "dynamic")
    # where bytes alone decide, packed floats must not win against what was asked for
    integers_only = bool(found and placed_for.fusions) and not placed_for.is_cpu
    if mode in _STORING and not integers_only:
        found += binary
        if placed_for.is_cpu:
            found += in_blocks(model, WEIGHTS[kind], fitted, feeds)
        if kind != "int8":
            found += packed_in_few_bits(model, WEIGHTS[kind], fitted, feeds, data)
        found.append(replace(packed, essential="") if integer_io else packed)
    if integer_io:
        found = [replace(each, ports=(RaiseOpset(), QuantizePorts(calibration))) for each in found]
    return found


def parse_weights(text: str) -> tuple[str, int]:
    """Read ``--weights``: the type, and of binary weights the signs for each, at most.

    Raises:
        OptionError: there is no such type, or not so many signs.

    Example:
        >>> parse_weights("binary:2"), parse_weights("int4")
        (('binary', 2), ('int4', 4))
    """
    kind, colon, number = text.partition(":")
    if kind not in WEIGHTS or (colon and kind != "binary"):
        raise OptionError(
            f"there is no type of weights {text!r}", hint=f"one of: {', '.join(WEIGHTS)}[:BASES]"
        )
    if colon and number not in map(str, range(1, MAX_BASES + 1)):
        raise OptionError(f"{number!r} is no number of bases", hint=f"1 to {MAX_BASES}, as in binary:2")
    return kind, int(number or MAX_BASES)


def _raised(quantize: QuantizeStatic | QuantizeDynamic) -> RaiseOpset:
    return RaiseOpset(opset=quantize.min_opset)


def _dynamic(
    model: ir.Model,
    target: str,
    packing: Sequence[Step],
    first: Sequence[Step] = (),
    *,
    required: bool = False,
) -> list[Candidate]:
    """Products whose scales are found at run time: all, or those that ``first`` leaves in float."""
    quantize = QuantizeDynamic(target=target)
    candidate = dynamic_candidate(replace(quantize, check=False), (), first)
    if not (required or run_steps(model, candidate.passes).applied[-1].modified):
        return []
    return [dynamic_candidate(quantize, packing, first)]


def packed_candidate(model: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> Candidate:
    """Weights of 8 bits, and of 16 where 8 would bring too much noise."""
    head = (RaiseOpset(opset=CODES_OPSET),)
    storage = Storage(run_steps(model, head).model, feeds)
    packing = storage.steps(storage.knee(*_PACKED_DB))
    return Candidate("packed weights", head, packing, essential=PackWeights.name, storage=storage)


def static_candidate(quantize: QuantizeStatic, packing: Sequence[Step] = REST) -> Candidate:
    """Static quantization, and what stays in float packed."""
    chosen = ", some ends of their own" if quantize.ranges else ""
    kind = "float8" if quantize.activation == FLOAT8 else "int8"
    name = f"static {kind}, {quantize.method} ranges{chosen}"
    if quantize.factors:
        name += ", equalized channels"
    if quantize.correct_bias:
        name += ", corrected biases"
    if quantize.known:
        name += ", weights by GPTQ"
    if quantize.min_sqnr_db:
        name += ", outliers in float"
    if quantize.placement == "all":
        name += ", wherever there is a kernel"
    elif quantize.penalties:
        name += ", the noisiest parts in float"
    elif quantize.times:
        name += ", placed by times measured here"
    return Candidate(name, (_raised(quantize), quantize), packing, essential=quantize.name)


def dynamic_candidate(
    quantize: QuantizeDynamic, packing: Sequence[Step] = REST, first: Sequence[Step] = ()
) -> Candidate:
    """Products whose scales are found at run time, behind other passes; what stays in float packed."""
    name = "static int8, products with outliers dynamic" if first else "dynamic int8"
    if quantize.penalties:
        name += ", the noisiest parts in float"
    head = (*first, _raised(quantize), quantize)
    return Candidate(name, head, packing, essential=quantize.name)


def _fastest(
    model: ir.Model, quantize: QuantizeStatic, feeds: Sequence[Mapping[str, Any]], threads: Sequence[int]
) -> QuantizeStatic:
    """The placement that is fastest here: by the target's costs, by times of single units, or everywhere.

    A table knows layouts and conversions, times know this machine and these inputs, and now and then both are
    wrong; the whole decides, with the number of threads that serves it worst.  The first that is as fast as
    any, to the width of a quick look, is taken.
    """

    def time_ratio(built: ir.Model) -> float:
        looks = (measure_latency(model, built, feeds=feeds, threads=n, budget_s=_LOOK_S) for n in threads)
        return max(look.ratio for look in looks)

    feeds = feeds[:_TIMING_FEEDS]
    forms = [quantize, replace(quantize, placement="all")]
    try:
        forms.insert(1, replace(quantize, times=unit_times(model, quantize, feeds, Setting.of(threads[0]))))
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
                ratios[number] = time_ratio(built)
        except OnnxSlimError as error:
            _log.info("a placement was not tried: %s", error.what)
    best = min(ratios.values(), default=math.inf)
    return next((forms[i] for i, ratio in sorted(ratios.items()) if ratio <= _AS_FAST * best), quantize)


def _node_count(model: ir.Model, quantize: QuantizeStatic) -> int:
    """How many nodes there are with it: the fewer, the less is quantized."""
    return run_steps(model, (_raised(quantize), replace(quantize, check=False))).model.graph.num_nodes()
