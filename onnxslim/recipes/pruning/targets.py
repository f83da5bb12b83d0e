"""Meet a target: by what the costs say, then by what the pruned model really has or takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from onnxslim._ir import ir
from onnxslim.analysis.cost import summary
from onnxslim.errors import BudgetError, OptionError
from onnxslim.model.io import FileInfo, save
from onnxslim.recipes.budget import Target
from onnxslim.recipes.pruning.apply import Pruned
from onnxslim.recipes.pruning.plan import Plan, Removal
from onnxslim.recipes.pruning.widths import macs_for

__all__ = ["Goal", "amount", "meet", "reached"]

_ATTEMPTS = 10
_MEASUREMENTS = 6
_AIM, _NEAR = 0.985, 0.015  # of a wanted time: what comes so near is good enough
_TOO_SLOW = 0.05


@dataclass(frozen=True)
class Goal:
    """How much is to go: a ``ratio`` of the channels, what goes for ``free`` or with an ``error`` of no more,
    or down to a quantity."""

    kind: Literal["ratio", "free", "error", "macs", "params", "bytes", "latency"]
    target: Target


class _Run(Protocol):
    @property
    def folder(self) -> Path: ...
    @property
    def original(self) -> ir.Model: ...

    def latency(self, file: FileInfo) -> Any: ...


Apply = Callable[[Removal, bool], Pruned]


def meet(plan: Plan, goal: Goal, apply: Apply, run: _Run) -> Pruned:
    """Prune to a goal, and reconstruct what came out.

    Args:
        apply: removes channels; reconstructs where its second argument says so.
        run: measures time.

    Raises:
        BudgetError: it is not met even with everything gone that may go.
    """
    if goal.kind == "ratio":
        return apply(plan.share(goal.target.value), True)
    if goal.kind == "free":
        return apply(plan.free(), True)
    if goal.kind == "error":
        return apply(plan.free(goal.target.value), True)
    if goal.kind == "latency":
        return _meet_time(plan, goal.target, apply, run)
    return _meet_size(plan, goal.kind, goal.target, apply, run)


def _meet_size(plan: Plan, kind: str, target: Target, apply: Apply, run: _Run) -> Pruned:
    """The estimate is corrected by what the pruned model has, since rounding and shapes are its own."""
    counted = "params" if kind == "bytes" else kind
    feed = plan.widths.feed
    wanted = target.value * (amount(run.original, kind, feed) if target.kind == "ratio" else 1)
    each = 4 if kind == "bytes" else 1  # bytes of a parameter
    aim = plan.widths.total_at_full(counted) - (amount(plan.widths.model, kind, feed) - wanted) / each
    for _ in range(_ATTEMPTS):
        removal = plan.meet(counted, aim)
        found = amount(apply(removal, False).model, kind, feed)
        if found <= wanted:
            return apply(removal, True)
        aim = min(aim - (found - wanted) / each, 0.998 * aim)
    raise BudgetError(
        f"with all that may go the model has {found:.4g} {kind}, not {wanted:.4g}",
        hint="protect less, use a smaller --round, or relax the target",
    )


def reached(goal: Goal, run: _Run, feed: Mapping[str, Any]) -> Callable[[ir.Model], bool]:
    """Whether a model meets a goal that is an upper bound on a quantity."""
    target = goal.target
    if goal.kind == "latency":

        def in_time(model: ir.Model) -> bool:
            measured = run.latency(save(model, run.folder / "attempt.onnx", force=True))
            found = measured.ratio if target.kind == "ratio" else measured.seconds_b
            return bool(found <= target.value)

        return in_time
    wanted = target.value * (amount(run.original, goal.kind, feed) if target.kind == "ratio" else 1)
    return lambda model: amount(model, goal.kind, feed) <= wanted


def amount(model: ir.Model, kind: str, feed: Mapping[str, Any] | None) -> float:
    """What a model has of a quantity other than time.

    Raises:
        OptionError: nobody knows.
    """
    found = macs_for(model, feed) if kind == "macs" else summary(model, macs=False)[kind]
    if not found:
        raise OptionError(
            f"the {kind} of the model are not known",
            hint="fix the shapes of its inputs, or use another target",
        )
    return float(found)


def _meet_time(plan: Plan, target: Target, apply: Apply, run: _Run) -> Pruned:
    """Ask for shares of the estimated time, each found from the times measured so far, until one fits."""
    total = plan.widths.total_at_full("latency")
    share = target.value if target.kind == "ratio" else 0.5
    taken = {0.0: 0.0}  # share of the estimate -> time, of that wanted
    best: tuple[float, Removal] | None = None
    for _ in range(_MEASUREMENTS):
        removal = plan.meet("latency", share * total)
        share = max(share, plan.widths.total("latency") / total)  # what could be had
        file = save(apply(removal, False).model, run.folder / "attempt.onnx", force=True)
        measured = run.latency(file)
        found = (measured.ratio if target.kind == "ratio" else measured.seconds_b) / target.value
        taken[1.0] = found / measured.ratio
        taken[share] = found
        if best is None or abs(found - 1) < abs(best[0]):
            best = (found - 1, removal)
        if abs(found - _AIM) <= _NEAR:
            break
        share = _interpolated(taken)
    assert best is not None
    if best[0] > _TOO_SLOW:
        raise BudgetError(
            f"the nearest that was reached takes {1 + best[0]:.2f} of the time that was asked for",
            hint="protect less, use a smaller --round, or relax the target",
        )
    return apply(best[1], True)


def _interpolated(taken: Mapping[float, float]) -> float:
    """The share that should take as long as is wanted, between the nearest that took less and took more.

    Example:
        >>> round(_interpolated({0.0: 0.0, 0.5: 0.7, 1.0: 1.5}), 2)
        0.68
    """
    shares = sorted(taken)
    low = max((share for share in shares if taken[share] <= _AIM), default=0.0)
    high = min((share for share in shares if share > low), default=1.0)
    rise = taken[high] - taken[low]
    part = (_AIM - taken[low]) / rise if rise > 0 else 0.5
    return low + (high - low) * min(max(part, 0.1), 0.9)
