"""What the times of a measurement allow to be said: by which clock, and faster, slower, equal or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from onnxslim.measure.diagnosis import Trouble
from onnxslim.measure.stats import nested_bootstrap

__all__ = [
    "MARGIN",
    "Clock",
    "Epoch",
    "Verdict",
    "choose_clock",
    "claim_margin",
    "decide",
    "is_settled",
    "log_ratios",
]

Verdict = Literal["faster", "slower", "equal", "inconclusive"]
Clock = Literal["wall", "cpu"]
# what :func:`onnxslim.measure.remote.loop.epoch` returns
Epoch: TypeAlias = Mapping[str, Any]
Array = np.ndarray[Any, Any]

MARGIN = 0.02  # differences below are not worth a claim
_NARROW = 0.006  # an interval of this half width needs no further epoch
_UNDISTURBED = 1.02  # wall / CPU time of the fastest call of a chunk


def choose_clock(found: Sequence[Epoch], on_cpu: bool) -> tuple[Clock, Trouble | None]:
    """Wall time, unless calls were interrupted so often that even the fastest of a chunk shows it.

    Args:
        on_cpu: the calling thread did all the work, so that its CPU time can stand in.

    Returns:
        The clock, and what to know about the choice.
    """
    if not on_cpu:
        return "wall", None
    wall = np.concatenate([epoch["wall"].ravel() for epoch in found])
    cpu = np.concatenate([epoch["cpu"].ravel() for epoch in found])
    if not (cpu > 0).all() or len(np.unique(cpu)) < 5:  # counted in ticks, as some systems do
        return "wall", Trouble(
            "this system counts CPU time too coarsely to tell whether calls were interrupted"
        )
    if float(np.quantile(wall / cpu, 0.9)) <= _UNDISTURBED:
        return "wall", None
    return "cpu", Trouble("calls were interrupted by other processes: CPU time is compared, not wall time")


def log_ratios(found: Sequence[Epoch], clock: Clock, column: int) -> list[Array]:
    """Per epoch, log(time of the session in ``column`` / time of A) of each round."""
    times = [np.maximum(epoch[clock], 1).astype(np.float64) for epoch in found]
    return [np.log(epoch[:, column] / epoch[:, 0]) for epoch in times]


def is_settled(found: Sequence[Epoch], on_cpu: bool, seed: int) -> bool:
    """Whether further epochs would hardly change what can be said: the interval is narrow, and clear."""
    clock, _ = choose_clock(found, on_cpu)
    ratios = log_ratios(found, clock, found[0]["wall"].shape[1] - 1)
    low, high = nested_bootstrap(ratios, seed=seed, resamples=300)
    clear = high < -2 * MARGIN or low > 2 * MARGIN or (low > -MARGIN and high < MARGIN)
    return clear and (high - low) / 2 < max(_NARROW, abs(low + high) / 20)


def decide(low: float, high: float, stray: float, troubles: Sequence[Trouble] = ()) -> Verdict:
    """The verdict on an interval of log ratios; ``stray`` is how far the control is from zero.

    Example:
        >>> decide(-0.11, -0.09, 0.002), decide(-0.11, -0.01, 0.002)
        ('faster', 'inconclusive')
    """
    if any(trouble.fatal for trouble in troubles):
        return "inconclusive"
    margin = claim_margin(stray)
    if high < -margin:
        return "faster"
    if low > margin:
        return "slower"
    return "equal" if -math.log1p(MARGIN) < low and high < math.log1p(MARGIN) else "inconclusive"


def claim_margin(stray: float) -> float:
    """How far a log ratio must lie from zero for a claim, given how far the control lies."""
    return max(math.log1p(MARGIN), 1.5 * abs(stray))
