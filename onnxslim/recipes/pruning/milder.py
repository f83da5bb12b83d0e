"""Ask for less where too much is lost: a goal between nothing and what was asked, found by bisection.

What is lost is measured on inputs that nothing was fitted to; the test data are not looked at.  Of a metric
that is a function nothing is known but its value, so it is called for each attempt, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from onnxslim.recipes.budget import Target
from onnxslim.recipes.pruning.targets import Goal

__all__ = ["between", "furthest"]

_T = TypeVar("_T")
_ATTEMPTS = 4


def between(goal: Goal, share: float, full: float = 1.0) -> Goal:
    """A goal that asks for a share of the saving.

    Args:
        share: of what is to be saved; all of it at 1.
        full: what the original has, in the unit of an absolute target.

    Example:
        >>> between(Goal("macs", Target(0.5, "ratio")), 0.5)
        Goal(kind='macs', target=Target(value=0.75, kind='ratio'))
        >>> between(Goal("ratio", Target(0.4, "ratio")), 0.5)
        Goal(kind='ratio', target=Target(value=0.2, kind='ratio'))
    """
    value, kind = goal.target.value, goal.target.kind
    if goal.kind == "ratio":
        return Goal("ratio", Target(share * value, kind))
    nothing = full if kind == "absolute" else 1.0
    return Goal(goal.kind, Target(nothing + share * (value - nothing), kind))


def furthest(
    attempt: Callable[[float], _T], allowed: Callable[[_T], bool], low: float = 0.0, attempts: int = _ATTEMPTS
) -> tuple[float, _T] | None:
    """The largest share of the saving that is allowed, to a sixteenth, and what it gave; None: there is none.

    Args:
        attempt: prunes for a share of the saving; all of it is known to be too much.
        low: a share that is known to be allowed.
        attempts: each halves what is not known.

    Example:
        >>> furthest(lambda share: share, lambda share: share < 0.6)
        (0.5625, 0.5625)
    """
    high, best = 1.0, None
    for _ in range(attempts):
        middle = (low + high) / 2
        found = attempt(middle)
        if allowed(found):
            low, best = middle, (middle, found)
        else:
            high = middle
    return best
