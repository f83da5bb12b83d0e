"""Which forms of a model are tried: each a name and the passes that make it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OptionError
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.engine import Step
from onnxslim.runtime.targets.target import DEFAULT_TARGET

__all__ = ["MODES", "Candidate", "candidates"]

MODES = ("compress", "auto", "static", "weight-only")


@dataclass(frozen=True)
class Candidate:
    """A form of the model to try."""

    name: str
    steps: tuple[Step, ...]


def candidates(
    model: ir.Model, calibration: Calibration, *, target: str | None = None, mode: str = "compress"
) -> list[Candidate]:
    """The forms to try for ``model``, most promising first.

    Raises:
        OptionError: there is no such mode.
    """
    if mode not in MODES:
        raise OptionError(f"there is no mode {mode!r}", hint="one of " + ", ".join(MODES))
    hardware = target or DEFAULT_TARGET
    static = QuantizeStatic(calibration, target=hardware)
    found = {
        "static int8 + packed": Candidate("int8, the rest packed", (static, PackWeights())),
        "packed": Candidate("weights packed to 8 bits", (PackWeights(),)),
        "simplify": Candidate("simplified only", ()),
    }
    wanted = {"static": ("static int8 + packed",), "weight-only": ("packed",), "auto": tuple(found)[:2]}
    return [found[name] for name in wanted.get(mode, tuple(found))]
