"""Run a model on feeds and observe its tensors: the part of calibration that happens in the worker process.

Activations stay in the worker; what goes back are states of fixed size.  Imports numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxslim.calibration.observers import TensorState

__all__ = ["default_axis", "observe"]


def observe(
    feeds: Sequence[Mapping[str, Any]],
    states: Mapping[str, Mapping[str, Any]],
    *,
    session: Any,
    inputs: Sequence[str],
    fetches: Sequence[str],
    required: Sequence[str],
    axes: Mapping[str, int],
) -> dict[str, Any]:
    """Run ``session`` on each feed and add what its tensors hold to ``states``.

    Args:
        states: what the feeds before these left (``TensorState.to_arrays`` by name), or nothing.
        session: an onnxruntime session.
        inputs: inputs of the model to observe.
        fetches: outputs of the session to observe, in topological order.
        required: outputs in which a NaN means that the sample cannot be used.
        axes: channel axis by tensor; the others get :func:`default_axis`.

    Returns:
        ``states``; ``rejected``, by name: position of the feed and what it holds ("NaN", "Inf"); and where a
        feed could not be used, ``failed``: its position and the reason, and nothing after it was run.
    """
    merged = {name: TensorState.from_arrays(arrays) for name, arrays in states.items()}
    rejected: dict[str, tuple[int, str]] = {}
    failed: tuple[int, str] | None = None
    for position, feed in enumerate(feeds):
        try:
            results = session.run(list(fetches), dict(feed)) if fetches else []  # [] would mean all
        except Exception as error:  # onnxruntime's own classes have no common base
            if "alloc" in str(error):  # out of memory: not the sample's fault alone
                raise
            failed = (position, f"{type(error).__name__}: {error}")
            break
        bad: dict[str, str] = {}
        values = [*((name, feed[name]) for name in inputs), *zip(fetches, results, strict=True)]
        del results
        while values:
            name, value = values.pop(0)
            problem = _not_finite(value)
            if problem:
                bad[name] = problem
            elif name not in rejected:
                axis = axes.get(name, default_axis(value.ndim))
                state = TensorState.of(value, axis if -value.ndim <= (axis or 0) < value.ndim else None)
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
        "states": {name: state.to_arrays() for name, state in merged.items()},
        "rejected": {name: list(found) for name, found in rejected.items()},
        "failed": list(failed) if failed else None,
    }


def default_axis(rank: int) -> int | None:
    """The channel axis where nothing tells it: second of four axes or more, else last; None for scalars."""
    if rank == 0:
        return None
    return 1 if rank >= 4 else -1


def _not_finite(value: np.ndarray) -> str:
    if not value.size or (np.isfinite(value.min()) and np.isfinite(value.max())):
        return ""
    return "NaN" if np.isnan(value.min()) else "Inf"
