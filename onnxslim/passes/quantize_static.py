"""Quantize to 8 bits wherever the target has an integer kernel that pays, with scales from calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.selection import unpicked
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.calibration.calibrators import Method, quantization_error
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.ops.registry import is_dequantize
from onnxslim.passes._checked import refusals
from onnxslim.passes._rounding import Known
from onnxslim.passes._scaling import scale_channels
from onnxslim.passes._static import StaticRules, StaticWriter
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.affine import affine
from onnxslim.reconstruct.float8 import FLOAT8, float8_scale
from onnxslim.runtime.errors import RuntimeRefused
from onnxslim.runtime.kernels import executed
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.placement import Times, place
from onnxslim.runtime.targets.target import DEFAULT_TARGET, Target
from onnxslim.runtime.targets.units import Unit, find_units

__all__ = ["Activations", "QuantizeStatic"]

Array = npt.NDArray[Any]

Activations = Literal["", "uint8", "int8", "uint16", "int16", "float8e4m3fn"]

_MIN_OPSET = 13  # scales per channel since then
_WIDE_OPSET = 21  # 16 bits, and types that are named without a zero point, since then


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Put QuantizeLinear / DequantizeLinear pairs around the nodes that become integer kernels and pay.

    1. Units are nodes of the target's fusion table, with the Relu or Clip that their kernel absorbs.
    2. A minimum cut over the target's costs, or over ``times`` that were measured, chooses those that are
       worth the conversions around them; the rest stays in float, declined with its two times.
    3. Activations become uint8 (or symmetric int8, where the target takes only that; other ``activations`` are
       for targets that list them) with one scale per tensor, from the calibration; what only moves values keeps the scale of its input.  Weights become
       int8 with a scale per output channel, biases int32 unless the target wants floats.  Of 8-bit floats
       (``float8e4m3fn``) both have one scale per tensor and no zero point, and biases stay floats.
    4. If the target stands for the CPU, the runtime builds the graph; a node that did not become its integer
       kernel goes back to float, and the rest is planned again.

    A product's output stays float where its kernel allows (MatMul, Gemm): nothing is lost to rounding, and
    what follows is fused as before.  A bias added behind a MatMul becomes int32 too, since onnxruntime makes
    a Gemm of the two, which in integers takes no other bias.

    ``correct_bias`` helps many convolutional networks and hurts some: decide by the error on held-out data.

    ``ranges`` and ``factors`` are chosen by the error on data (:mod:`onnxslim.recipes.least_noise`): ranges of
    single activations, and what the channels of activations are multiplied by before they are quantized, as
    ``equalize-channels`` does it; then the calibration is of the model with these channels.

    ``known`` are integers that stand for the same weights at the same scales, but leave less noise behind the
    product than the nearest ones (:mod:`onnxslim.recipes.fitted_weights`).

    ``min_sqnr_db`` leaves out the few activations with outliers (transformers have some) for accuracy.

    Needs opset 13 (see ``raise-opset``).  A model that is quantized already is left alone.
    """

    name: ClassVar[str] = "quantize-static"
    promise: ClassVar[Promise] = Promise.LOSSY

    calibration: Calibration | None = field(default=None, metadata={"help": "ranges of the activations"})
    method: Method = field(default="minmax", metadata={"help": "how a range is found in the calibration"})
    correct_bias: bool = field(
        default=False, metadata={"help": "add to each bias what rounding the weight takes on average"}
    )
    ranges: Mapping[str, tuple[float, float]] = field(
        default_factory=dict, metadata={"help": "ranges of activations, before what the method finds"}
    )
    factors: Mapping[str, Array] = field(
        default_factory=dict, metadata={"help": "powers of two that channels are multiplied by first"}
    )
    known: Mapping[str, Known] = field(
        default_factory=dict,
        metadata={"help": "integers of weights that were found elsewhere, by the name of what is stored"},
    )
    min_sqnr_db: float = field(
        default=0.0,
        metadata={"help": "leave a node in float when rounding an activation is noisier than this"},
    )
    target: str = field(default=DEFAULT_TARGET, metadata={"help": "what the integers are placed for"})
    activations: Activations = field(
        default="", metadata={"help": "type of activations, of those that the target lists; default its first"}
    )
    asymmetric: bool = field(default=False, metadata={"help": "signed activations have zero points too"})
    power_of_two_scales: bool = field(
        default=False, metadata={"help": "as some targets demand: hardware shifts instead of multiplying"}
    )
    include: str = field(
        default="", metadata={"help": "quantize only these nodes: globs of names, or op:Conv; default all"}
    )
    exclude: str = field(
        default="", metadata={"help": "leave these nodes in float: comma-separated globs of names, or op:Conv"}
    )
    placement: Literal["pays", "all"] = field(
        default="pays", metadata={"help": "all: whatever has an integer kernel, whether it pays or not"}
    )
    times: Times = field(
        default_factory=dict, metadata={"help": "nanoseconds that units were measured to take"}
    )
    penalties: Mapping[str, float] = field(
        default_factory=dict, metadata={"help": "nanoseconds that a unit must gain beside, for its noise"}
    )
    check: bool = field(default=True, metadata={"help": "look at the graph that the runtime builds"})

    @property
    def costs(self) -> Target:
        """What the two forms of a unit cost."""
        return load_target(self.target)

    @property
    def activation(self) -> str:
        """The type of activations."""
        return self.activations or self.costs.activation

    @property
    def min_opset(self) -> int:
        """The first operator set that has the types."""
        return _MIN_OPSET if self.activation.endswith("int8") else _WIDE_OPSET

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        types = {self.costs.activation, *self.costs.activation_types}
        if self.activation not in types:
            raise OptionError(
                f"{self.target} is not known to take activations of type {self.activation}",
                hint="it takes: " + ", ".join(sorted(types)),
            )
        reason = self._refuses(model)
        if reason is not None:
            self.decline(model.graph.name or "graph", reason)
            return ir.passes.PassResult(model, False)
        refused: Mapping[str, str] = {}
        if self.check and load_target(self.target).is_cpu:  # no other provider can be asked here
            try:
                refused = refusals(lambda known: self._missed(edit.copy_of(model), known))
            except RuntimeRefused as error:  # an operator set that is newer than the runtime's kernels
                self.decline(model.graph.name or "graph", f"quantized it does not run: {error.what}")
                return ir.passes.PassResult(model, False)
        units, reasons, shapes = self._plan(model, refused)
        for node, why in reasons.items():
            self.decline(node.name or node.outputs[0].name or "", why)
        if units and self.calibration is not None:
            scale_channels(model, self.factors)
            StaticWriter(model.graph, shapes, self.calibration, self._rules).insert(units)
        return ir.passes.PassResult(model, bool(units))

    def _refuses(self, model: ir.Model) -> str | None:
        if self.calibration is None:
            return "static quantization needs a calibration"
        opset = model.opset_imports.get("", 0)
        if opset < self.min_opset:
            return f"its types and scales need opset {self.min_opset}, the model has {opset}"
        if any(is_dequantize(node) for node in model.graph.all_nodes()):
            return "the model is quantized already"
        return None

    def _plan(
        self, model: ir.Model, refused: Mapping[str, str]
    ) -> tuple[list[Unit], dict[ir.Node, str], Shapes]:
        target, shapes = self.costs, infer(model)

        def refuse(unit: Unit) -> str | None:
            known = unpicked(unit.node, self.include, self.exclude) or refused.get(unit.output.name or "")
            if known is not None:
                return known
            values = [*unit.activations, *([unit.output] if unit.fusion.output != "float" else [])]
            missing = [v.name for v in values if self.calibration is None or v.name not in self.calibration]
            if missing:
                return f"{missing[0]} was not calibrated"
            noisiest = min((self._sqnr_db(value.name or "") for value in values), default=math.inf)
            if noisiest < self.min_sqnr_db:
                return f"rounding its activations leaves {noisiest:.0f} dB, below {self.min_sqnr_db:g}"
            return None

        units, unfit = find_units(model.graph, target, refuse)
        if self.placement == "all":
            return units, dict(unfit), shapes
        placement = place(units, target, shapes, self.times, self.penalties)
        return list(placement.units), {**unfit, **placement.reasons}, shapes

    @property
    def shifts(self) -> bool:
        """Whether scales are powers of two."""
        return self.power_of_two_scales or self.costs.power_of_two_scales

    @property
    def _rules(self) -> StaticRules:
        return StaticRules(
            self.costs,
            lambda name: self.encoding(*self.range_of(name)),
            self.shifts,
            self.correct_bias,
            self.known,
            float8=self.activation == FLOAT8,
        )

    def encoding(self, low: float, high: float) -> tuple[np.float32, Any]:
        """Scale and zero point of activations over a range."""
        if self.activation == FLOAT8:
            return float8_scale(low, high, power_of_two=self.shifts)
        symmetric = self.activation.startswith("int") and not self.asymmetric
        return affine(low, high, self.activation, symmetric=symmetric, power_of_two=self.shifts)

    def range_of(self, name: str) -> tuple[float, float]:
        """The range of an activation that was calibrated."""
        assert self.calibration is not None
        return self.ranges.get(name) or self.calibration.range(name, self.method)

    def _sqnr_db(self, name: str) -> float:
        """Signal against rounding noise of one activation, as it was calibrated."""
        if not self.min_sqnr_db or self.calibration is None or not self.activation.endswith("int8"):
            return math.inf
        histogram = self.calibration.histogram(name)
        low, high = self.range_of(name)
        if self.activation == "int8" and not self.asymmetric:
            high = max(abs(low), abs(high))
            low = -high
        if not histogram.total:
            return math.inf
        noise = quantization_error(histogram, low, high)
        signal = float((histogram.counts * histogram.centres**2).sum() / histogram.total)
        return 10 * math.log10(signal / noise) if signal and noise else math.inf

    def _missed(self, trial: ir.Model, refused: Mapping[str, str]) -> dict[str, str]:
        """Outputs of the units that the runtime computes in float after all; ``trial`` is spent."""
        units, _, shapes = self._plan(trial, refused)
        if not units or self.calibration is None:
            return {}
        names = [unit.output.name or "" for unit in units]
        scale_channels(trial, self.factors)
        weights = StaticWriter(trial.graph, shapes, self.calibration, self._rules).insert(units)
        built = executed(trial)
        return {  # an integer kernel has swallowed the conversion of its weight
            name: f"the runtime does not make {unit.fusion.kernel} of it"
            for name, unit, weight in zip(names, units, weights, strict=True)
            if weight is not None and built.kernel_of(weight) is not None
        }
