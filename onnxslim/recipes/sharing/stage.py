"""A way to share what is only similar: its forms, from the one that was asked for to milder ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.recipes.engine import Outcome

__all__ = ["Form", "Stage", "strongest"]


@dataclass(frozen=True)
class Form:
    """What a stage makes of the model, and a sentence about it for the report."""

    outcome: Outcome
    note: str


@dataclass(frozen=True)
class Stage:
    """One way of sharing.

    Attributes:
        name: for the report.
        forms: each makes the model anew; the one that was asked for, then milder and milder ones.
        accepts: what the stage itself demands of a form, whatever the budget.
    """

    name: str
    forms: Sequence[Callable[[], Form]]
    accepts: Callable[[ir.Model], bool] | None = None


def strongest(stage: Stage, accepts: Callable[[ir.Model], bool]) -> Form | None:
    """The first form that is accepted, if those behind an accepted one are accepted too; None: not even the
    mildest is.

    Example:
        >>> def form(number):
        ...     return lambda: Form(Outcome(ir.Model(ir.Graph([], [], nodes=[]), ir_version=number)), "")
        >>> stage = Stage("numbers", [form(number) for number in range(9)])
        >>> strongest(stage, lambda model: model.ir_version >= 5).outcome.model.ir_version
        5
    """
    found: Form | None = None
    low, high = 0, len(stage.forms)
    at = 0  # most often what was asked for will do
    while low < high:
        form = stage.forms[at]()
        if accepts(form.outcome.model):
            found, high = form, at
        else:
            low = at + 1
        at = (low + high) // 2
    return found
