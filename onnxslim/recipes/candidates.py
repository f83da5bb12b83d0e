"""What is worth trying to make a model smaller and faster: a few ways, from which the search takes the best.

Each candidate is a list of passes over the simplified model.  Whatever a candidate leaves in float, it packs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.calibration.calibrators import Method
from onnxslim.calibration.store import Calibration
from onnxslim.errors import ModelError, OptionError, ResourceError
from onnxslim.measure.differences import Difference
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import DEFAULT_TARGET

__all__ = ["MODES", "Candidate", "candidates"]

_log = logging.getLogger(__name__)

_OUTLIERS_DB = 23.0  # activations noisier than this in 8 bits have outliers; most have 30 to 45
_METHODS: tuple[Method, ...] = ("minmax", "mse")
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
    feeds: Sequence[Mapping[str, Any]] = (),
) -> list[Candidate]:
    """The ways to try on ``model``, the most promising first.

    Args:
        model: the simplified model.
        calibration: of this model; without one there are no static candidates.
        target: what to place integers for; default this machine.
        mode: ``compress`` and ``auto`` try everything, the others one kind.
        feeds: held-out feeds that decide how static ranges are found, and whether biases are corrected.

    Raises:
        OptionError: no such mode or target.
    """
    if mode not in MODES:
        raise OptionError(f"there is no mode {mode!r}", hint="one of: " + ", ".join(MODES))
    placed_for = load_target(target or DEFAULT_TARGET)
    name = placed_for.name
    found: list[Candidate] = []
    if mode in ("compress", "auto", "static") and calibration is not None:
        best = _least_noise(model, QuantizeStatic(calibration, target=name), feeds)
        found.append(_static(best))
        careful = replace(best, min_sqnr_db=_OUTLIERS_DB)
        if _node_count(model, careful) != _node_count(model, best):
            found.append(_static(careful))
    # where bytes alone decide, packed floats must not win against what was asked for
    integers_only = bool(found and placed_for.fusions) and not placed_for.is_cpu
    if mode in ("compress", "auto", "weight-only") and not integers_only:
        found.append(Candidate("packed weights", (PackWeights(),)))
    return found


def _static(quantize: QuantizeStatic) -> Candidate:
    name = f"static int8, {quantize.method} ranges"
    if quantize.correct_bias:
        name += ", corrected biases"
    if quantize.min_sqnr_db:
        name += ", outliers in float"
    return Candidate(name, (RaiseOpset(), quantize, PackWeights()), essential=quantize.name)


def _node_count(model: ir.Model, quantize: QuantizeStatic) -> int:
    """How many nodes there are with it: the fewer, the less is quantized."""
    return run_steps(model, (RaiseOpset(), replace(quantize, check=False))).model.graph.num_nodes()


def _least_noise(
    model: ir.Model, first: QuantizeStatic, feeds: Sequence[Mapping[str, Any]]
) -> QuantizeStatic:
    """The ranges and biases that leave the least noise on ``feeds``."""
    best, sqnr = first, -math.inf
    if feeds:
        with open_worker() as worker:
            reference = _outputs(worker, model, feeds)

            def consider(option: QuantizeStatic) -> None:
                nonlocal best, sqnr
                try:
                    outcome = run_steps(model, (RaiseOpset(), option)).model
                    quality = _sqnr_db(reference, _outputs(worker, outcome, feeds))
                except (ModelError, ResourceError) as error:  # the runtime refuses it: not this one
                    _log.info("%s was not considered: %s", option.method, error.what)
                    return
                if quality > sqnr:
                    best, sqnr = option, quality

            for method in _METHODS:
                consider(replace(first, method=method))
            consider(replace(best, correct_bias=True))
    return best


def _outputs(worker: Worker, model: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    with worker.load(model) as session:
        return [session.run(feed) for feed in feeds]


def _sqnr_db(reference: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> float:
    """Of the noisiest output, over all feeds."""
    differences = [Difference() for _ in reference[0]]
    for expected, row in zip(reference, found, strict=True):
        for difference, one, other in zip(differences, expected, row, strict=True):
            difference.add(one, other)
    return min(difference.sqnr_db for difference in differences)
