"""Run a model on feeds and observe its tensors: the part of calibration that happens in the worker process.

Activations stay in the worker; what goes back are states of fixed size.  Imports numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnxslim.calibration.joined import joined, separated
from onnxslim.calibration.moments import bounds_of
from onnxslim.calibration.observers import TensorState

__all__ = ["channel_axis", "observe"]


def observe(
    feeds: Sequence[Mapping[str, Any]],
    states: Mapping[str, Any],
    *,
    session: Any,
    inputs: Sequence[Mapping[str, Any]],
    fetches: Sequence[Mapping[str, Any]],
    required: Sequence[str],
) -> dict[str, Any]:
    """Run ``session`` on each feed and add what its tensors hold to ``states``.

    Args:
        states: what the feeds before these left, as ``joined`` makes it of their states, or nothing.
        session: an onnxruntime session.
        inputs: the fields of a ``Tap`` for each input of the model to observe.
        fetches: the same for outputs of the session, in topological order.
        required: tensors in which a NaN means that the sample cannot be used.

    Returns:
        ``states``; ``rejected``, by name: position of the feed and what it holds ("NaN", "Inf"); and where a
        feed could not be used, ``failed``: its position and the reason, and nothing after it was run.
    """
    merged = separated(states) if states else {}
    rejected: dict[str, tuple[int, str]] = {}
    failed: tuple[int, str] | None = None
    outputs = [tap["source"] for tap in fetches]
    for position, feed in enumerate(feeds):
        try:
            results = session.run(outputs, dict(feed)) if outputs else []  # [] would mean all
        except Exception as error:  # onnxruntime's own classes have no common base
            if "alloc" in str(error):  # out of memory: not the sample's fault alone
                raise
            failed = (position, f"{type(error).__name__}: {error}")
            break
        bad: dict[str, str] = {}
        values = [*((tap, feed[tap["source"]]) for tap in inputs), *zip(fetches, results, strict=True)]
        del results
        values.reverse()
        while values:  # each is freed as soon as it was seen
            tap, value = values.pop()
            name = tap["name"]
            if tap["optional"] and not value.size:
                continue
            bounds = bounds_of(value)
            problem = _not_finite(*bounds)
            if problem:
                bad[name] = problem
            elif name not in rejected:
                axis = channel_axis(tap, value.ndim)
                state = TensorState.of(
                    value, axis, moments=tap["moments"], products=tap["products"], bounds=bounds
                )
                merged[name] = merged[name].merge(state) if name in merged else state
        ruined = next((name for name in required if bad.get(name) == "NaN"), None)
        if ruined is not None:
            first = next(name for name, problem in bad.items() if problem == "NaN")
            failed = (position, f"the output '{ruined}' is NaN; NaN appears first in '{first}'")
            break
        for name, problem in bad.items():
            rejected.setdefault(name, (position, problem))
            merged.pop(name, None)
    return {
        "states": joined(merged),
        "rejected": {name: list(found) for name, found in rejected.items()},
        "failed": list(failed) if failed else None,
    }


def channel_axis(tap: Mapping[str, Any], rank: int) -> int | None:
    """The channel axis of an array of ``rank`` axes: what the tap says, else second of four or more axes,
    else last; None where there is no such axis.

    Example:
        >>> channel_axis({"axis": 1, "leading": 1}, 5), channel_axis({"axis": None, "leading": 1}, 5)
        (2, 2)
    """
    own = rank - tap["leading"]
    axis = tap["axis"]
    if axis is None:
        axis = 1 if own >= 4 else -1
    if not -own <= axis < own:
        return None
    return int(axis + tap["leading"] if axis >= 0 else axis)


def _not_finite(low: float, high: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return ""
    return "NaN" if math.isnan(low) else "Inf"
