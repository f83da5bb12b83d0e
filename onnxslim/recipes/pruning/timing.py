"""What each node of a model takes, and how much of that goes away when it is made narrower: two profiles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.extract import named_values
from onnxslim.measure.profile import Profile, profile
from onnxslim.measure.setting import Setting, given_inputs
from onnxslim.ops.registry import spec_of
from onnxslim.recipes.pruning.allocation import evenly, removal
from onnxslim.recipes.pruning.plan import Plan, Removal
from onnxslim.recipes.pruning.widths import Widths

__all__ = ["timed"]

_HALF = 0.5
_SECONDS = 2.0  # of each profile
_MAX_FUSED = 4  # nodes that the runtime makes one kernel of


def timed(
    plan: Plan, feeds: Sequence[Mapping[str, Any]], make: Callable[[Removal], ir.Model], threads: int = 1
) -> Widths:
    """The costs of a plan with times, which shrink as they did when every group was halved.

    Args:
        make: removes channels from the plan's model.

    Raises:
        ModelError: the model does not run.
    """
    model, widths = plan.widths.model, plan.widths
    plan.meet("channels", widths.total_at_full("channels"))
    evenly(plan.curves, widths, _HALF)
    narrow, shares = make(removal(plan.curves, widths)), widths.shares()
    full, half = (_by_node(each, feeds, threads) for each in (model, narrow))
    seconds = {}
    for name, taken in full.items():
        share = shares.get(name, 1.0)
        ratio = half.get(name, taken) / taken if taken else 1.0
        floor = (ratio - share) / (1 - share) if share < 1 else 0.0
        seconds[name] = (taken, min(max(floor, 0.0), 1.0))
    return Widths(model, widths.channels, widths.feed, seconds)


def _by_node(model: ir.Model, feeds: Sequence[Mapping[str, Any]], threads: int) -> dict[str, float]:
    """Seconds by the name of a node's first output; of what was fused, by that of the product in it."""
    found: Profile = profile(model, given_inputs(feeds), Setting.of(threads), seconds=_SECONDS)
    profiled = {node.output for node in found.nodes}
    values = named_values(model.graph)
    total: dict[str, float] = {}
    for node in found.nodes:
        value = values.get(node.output)
        if value is not None and value.producer() is not None:
            name = _product_behind(value, profiled)
            total[name] = total.get(name, 0.0) + 1e-6 * node.us
    return total


def _product_behind(value: ir.Value, profiled: Collection[str]) -> str:
    """The output of the nearest node before a kernel's output that multiplies, inside what was fused."""
    work = [(value, 0)]
    for current, depth in work:
        node = current.producer()
        spec = spec_of(node) if node is not None else None
        if node is None or (depth and current.name in profiled):
            continue
        if spec is not None and spec.macs is not None:
            return current.name or ""
        if depth < _MAX_FUSED:
            work += [(each, depth + 1) for each in node.inputs if each is not None]
    return value.name or ""
