"""What the parts of a model take in float and in integers, measured here: two profiles, joined by output.

A table of costs knows a kind of machine; this knows the machine, the model and its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.measure.profile import Profile, profile
from onnxslim.measure.setting import Setting, given_inputs
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import run_steps
from onnxslim.runtime.targets.target import load_target
from onnxslim.runtime.targets.units import Unit, find_units

__all__ = ["attributed", "unit_times"]

_FUSED = 4  # so many nodes behind a product may have become part of its kernel


def unit_times(
    model: ir.Model,
    quantize: QuantizeStatic,
    feeds: Sequence[Mapping[str, Any]],
    setting: Setting | None = None,
) -> dict[str, tuple[float, float]]:
    """Nanoseconds of every unit in float and in integers, by the name of its output.

    Args:
        model: in float.
        quantize: with a calibration of the model; everything that it can make integer is made so once.
        feeds: what the two forms run on.

    Raises:
        ModelError: a form does not run on the feeds.
    """
    raised = run_steps(model, (RaiseOpset(),)).model
    everything = run_steps(model, (RaiseOpset(), replace(quantize, placement="all"))).model
    inputs = given_inputs(feeds)
    units, _ = find_units(raised.graph, load_target(quantize.target))
    slow = attributed(units, profile(raised, inputs, setting))
    fast = attributed(units, profile(everything, inputs, setting))
    return {
        unit.output.name or "": (1e3 * slow[unit], 1e3 * fast[unit])
        for unit in units
        if unit in slow and unit in fast
    }


def attributed(units: Sequence[Unit], found: Profile) -> dict[Unit, float]:
    """Microseconds of each unit.

    A product owns the kernel at its output, or at the end of what was fused behind it; what has no weight
    and no kernel of its own was fused into another, and takes nothing.  Products of which nothing is seen
    are left out.
    """
    times = {node.output: node.us for node in found.nodes}
    mine: dict[Unit, float] = {}
    for unit in units:
        if unit.weight is None:
            continue
        value: ir.Value | None = unit.output
        for _ in range(_FUSED):
            if value is None or value.name in times:
                break
            readers = [use.node for use in value.uses()]
            value = readers[0].outputs[0] if len(readers) == 1 and readers[0].outputs else None
        if value is not None and value.name in times:
            mine[unit] = times.pop(value.name)
    for unit in units:
        if unit.weight is None:
            mine[unit] = times.pop(unit.output.name or "", 0.0)
    return mine
