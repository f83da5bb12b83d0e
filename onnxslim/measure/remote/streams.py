"""Several callers at once: how many answers a second; runs in the worker process."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["epoch"]

_WINDOW_S = 0.2
_LEAST_CALLS = 4  # of each caller in a window

Feed = Mapping[str, Any]
Run = Callable[[], Any]


def epoch(
    sessions: Sequence[Callable[[Feed], Run]],
    feeds: Sequence[Feed],
    streams: int,
    seconds: float,
    seed: int,
    min_rounds: int = 3,
) -> np.ndarray[Any, Any]:
    """Let ``streams`` threads call each session at once, the sessions in turn, in random order every round.

    Returns:
        Calls per second, (rounds, sessions).
    """
    shuffle = random.Random(seed)
    runs = [[bind(feed) for feed in feeds] for bind in sessions]
    windows = []
    for those in runs:
        start = time.perf_counter()
        for run in those:
            run()
        call = (time.perf_counter() - start) / len(those)
        windows.append(max(_WINDOW_S, _LEAST_CALLS * call))
    window = max(windows)
    order = list(range(len(sessions)))
    found: list[list[float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < min_rounds:
        shuffle.shuffle(order)
        rates = [0.0] * len(sessions)
        for i in order:
            rates[i] = _rate(runs[i], streams, window)
        found.append(rates)
    return np.array(found)


def _rate(runs: Sequence[Run], streams: int, window: float) -> float:
    """Calls per second of ``streams`` callers, each counted until its last call ended."""
    rates = [0.0] * streams
    ready = threading.Barrier(streams)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            which, calls = number, 0
            runs[which % len(runs)]()  # pays for cold caches
            ready.wait()
            start = now = time.perf_counter()
            while now - start < window:
                which += 1
                runs[which % len(runs)]()
                calls += 1
                now = time.perf_counter()
            rates[number] = calls / (now - start)
        except BaseException as error:  # a thread's failure is the caller's
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((e for e in failures if not isinstance(e, threading.BrokenBarrierError)), failures[0])
    return sum(rates)
