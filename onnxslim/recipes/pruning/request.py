"""What a user asks of pruning, read and checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from onnxslim.analysis.channels import Mask
from onnxslim.analysis.selection import Selection
from onnxslim.errors import OptionError
from onnxslim.recipes.budget import (
    Drop,
    Target,
    parse_count_target,
    parse_drop,
    parse_latency_target,
    parse_size_target,
)
from onnxslim.recipes.pruning.criteria import criterion as find_criterion
from onnxslim.recipes.pruning.plan import Allocation
from onnxslim.recipes.pruning.targets import Goal

__all__ = ["Granularity", "PruneRequest", "request_of"]

Granularity = Literal["channel", "head", "block", "weight"]

_HOW = "give one of --ratio, --target-macs, --target-params, --target-bytes, --target-latency and --mask"
_ZEROS = "write --sparsity 0.5 or 2:4"


@dataclass(frozen=True)
class PruneRequest:
    """One run; see :func:`onnxslim.prune` for the meaning."""

    granularity: Granularity = "channel"
    criterion: str | None = None
    allocation: Allocation | None = None
    goal: Goal | None = None
    sparsity: str = ""
    mask: Mask | None = None
    drop: Drop | None = None
    multiple: int = 8
    steps: int = 1
    protect: Selection = field(default_factory=lambda: Selection.parse(""))
    ratios: Mapping[str, float] = field(default_factory=dict)
    residual: bool = False
    reconstruct: bool = True
    metric: str | None = None
    output: str | None = None
    threads: int = 1
    verify_limit: int = 10**9
    seed: int = 0


def request_of(
    *,
    goals: Mapping[str, Any],
    granularity: Granularity,
    criterion: str | None,
    ratios: Mapping[str, float],
    sparsity: str | float | None,
    mask: str | os.PathLike[str] | Mask | None,
    max_drop: str | float | Drop | None,
    multiple: int,
    protect: Iterable[str],
    steps: int = 1,
    **given: Any,
) -> PruneRequest:
    """Read the arguments of :func:`onnxslim.prune`.

    Args:
        goals: kind of goal -> what was given for it, None where nothing was.

    Raises:
        OptionError: they contradict each other, or say too little.

    Example:
        >>> asked = dict(granularity="channel", criterion="l1", ratios={}, sparsity=None, mask=None,
        ...     max_drop=None, multiple=8, protect=())
        >>> request_of(goals={"macs": "0.5x"}, **asked).goal
        Goal(kind='macs', target=Target(value=0.5, kind='ratio'))
    """
    asked = [_goal(kind, value) for kind, value in goals.items() if value is not None]
    if granularity == "weight":
        if asked or mask is not None or ratios:
            raise OptionError(
                "single weights are zeroed by --sparsity alone", hint="write --sparsity 0.5 or 2:4"
            )
        if sparsity is None:
            raise OptionError("--granularity weight needs --sparsity", hint=_ZEROS)
        if re.fullmatch(r"0?\.\d+", str(sparsity)):
            asked = [Goal("ratio", Target(float(sparsity), "ratio"))]
    elif sparsity is not None:
        raise OptionError("--sparsity is for single weights", hint="add --granularity weight, or use --ratio")
    elif not asked and mask is None and not ratios and criterion == "sparsity":
        asked = [Goal("free", Target(0.0, "ratio"))]
    elif len(asked) + (mask is not None) + (not asked and mask is None and bool(ratios)) != 1:
        few = (
            "nothing says how much to prune"
            if not asked and mask is None
            else "only one thing may say how much to prune"
        )
        raise OptionError(few, hint=_HOW)
    if granularity == "block" and (mask is not None or ratios or criterion is not None):
        raise OptionError(
            "residual blocks are ranked by their effect on the outputs", hint="give a ratio or a target alone"
        )
    chosen = granularity in ("channel", "head") and mask is None
    if steps < 1 or (steps > 1 and not chosen):
        raise OptionError(
            f"nothing can be removed in {steps} steps here",
            hint="--steps 2 or more is for channels and heads that are chosen, not for a mask",
        )
    if criterion is not None:
        find_criterion(criterion)
    if multiple < 1:
        raise OptionError(f"channels cannot be kept in multiples of {multiple}")
    goal = asked[0] if asked else Goal("ratio", Target(0.0, "ratio")) if ratios else None
    return PruneRequest(
        granularity=granularity,
        criterion=criterion,
        goal=goal,
        sparsity="" if sparsity is None else str(sparsity),
        mask=mask if mask is None or isinstance(mask, Mask) else Mask.load(mask),
        drop=None if max_drop is None else parse_drop(max_drop),
        multiple=multiple,
        protect=Selection.parse(",".join(protect)),
        ratios=ratios,
        steps=steps,
        **given,
    )


def _goal(kind: str, value: Any) -> Goal:
    if kind == "ratio":
        if not 0 <= value < 1:
            raise OptionError(f"--ratio must lie between 0 and 1, not {value}")
        return Goal("ratio", Target(float(value), "ratio"))
    if kind == "bytes":
        return Goal("bytes", parse_size_target(value))
    if kind == "latency":
        return Goal("latency", parse_latency_target(value))
    return Goal(cast("Any", kind), parse_count_target(value, f"--target-{kind}"))
