"""Run a session that records its events; runs in the worker process, never while something is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnxruntime as ort

__all__ = ["record"]

_LEAST, _MOST = 5, 50


def record(
    session: ort.InferenceSession,
    bind: Callable[[Mapping[str, Any]], Callable[[], Any]],
    feeds: Sequence[Mapping[str, Any]],
    seconds: float,
) -> str:
    """Call the session some times, over all feeds; returns the file of its events."""
    runs = [bind(feed) for feed in feeds]
    end = time.perf_counter() + seconds
    for number in range(_MOST + 1):
        runs[number % len(runs)]()
        if number >= max(_LEAST, len(runs)) and time.perf_counter() > end:
            break
    return str(session.end_profiling())
