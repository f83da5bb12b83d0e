"""What is worth trying to make a model smaller and faster: a few ways, from which the search takes the best.

Each candidate is a list of passes over the simplified model.  Whatever a candidate leaves in float, it packs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.calibration.calibrators import Method
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OptionError
from onnxslim.passes.base import Pass
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.runtime.targets.target import DEFAULT_TARGET, load_target

__all__ = ["MODES", "Candidate", "candidates"]

_METHODS: tuple[Method, ...] = ("minmax", "mse")
MODES = ("compress", "auto", "static", "dynamic", "weight-only")


@dataclass(frozen=True)
class Candidate:
    """A way to compress a model.

    Attributes:
        name: for the report.
        passes: what to apply, in order.
    """

    name: str
    passes: Sequence[Pass]


def candidates(
    model: ir.Model,
    calibration: Calibration | None,
    *,
    target: str | None = None,
    mode: str = "compress",
) -> list[Candidate]:
    """The ways to try on ``model``, the most promising first.

    Args:
        model: the simplified model.
        calibration: of this model; without one there are no static candidates.
        target: what to place integers for; default this machine.
        mode: ``compress`` and ``auto`` try everything, the others one kind.

    Raises:
        OptionError: no such mode or target.
    """
    if mode not in MODES:
        raise OptionError(f"there is no mode {mode!r}", hint="one of: " + ", ".join(MODES))
    name = load_target(target or DEFAULT_TARGET).name
    found: list[Candidate] = []
    if mode in ("compress", "auto", "static") and calibration is not None:
        found += [
            Candidate(
                f"static int8, {method}",
                (RaiseOpset(), QuantizeStatic(calibration, method=method, target=name), PackWeights()),
            )
            for method in _METHODS
        ]
    if mode in ("compress", "auto", "weight-only", "dynamic"):
        found.append(Candidate("packed weights", (PackWeights(),)))
    return found
