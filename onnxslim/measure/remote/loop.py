"""The timing loop; runs inside the worker process, with numpy and the standard library only.

Nothing but the calls happens between two readings of the clock: no messages, no allocation that grows.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["epoch"]

_CHUNK_NS = 20_000_000
_BATCH_NS = 500_000  # reading the CPU clock is a system call: once per this much work
_LONG_NS = 100_000_000  # a call this long does not notice what ran before it
_KEPT = 20_000  # calls whose times are kept, per session

Feed = Mapping[str, Any]
Run = Callable[[], Any]
Bind = Callable[[Feed], Run]


def epoch(
    sessions: Sequence[Bind], feeds: Sequence[Feed], seconds: float, seed: int, min_rounds: int = 3
) -> dict[str, Any]:
    """Time sessions in turn, a chunk of about 20 ms each, in a new random order every round.

    A session is given as a function that makes a call without arguments from a feed.

    All chunks of a round use one feed and the same number of calls, fixed by the first session's speed, so
    that no session has more chances of a fast call than another.

    Returns:
        ``wall``, ``cpu``: nanoseconds, (rounds, sessions), the fastest call and the fastest stretch of calls
            of each chunk; ``calls``: wall nanoseconds of single calls per session; ``switches``: involuntary
            context switches; ``elapsed``, ``own``, ``busy``, ``stolen``: seconds of this epoch: wall, CPU of
            this process, CPU of all processes, stolen by the hypervisor (0 where unknown).
    """
    order = list(range(len(sessions)))
    shuffle = random.Random(seed)
    runs = [[bind(feed) for feed in feeds] for bind in sessions]
    for run in itertools.chain.from_iterable(runs):
        run()
    speed = [_calls(run, _CHUNK_NS // 4, 1000) for run in runs[0]]
    typical = [max(1, int(np.median(times))) for times in speed]
    counts = [max(1, round(_CHUNK_NS / duration)) for duration in typical]
    wall: list[list[int]] = []
    cpu: list[list[int]] = []
    kept: list[list[np.ndarray[Any, Any]]] = [[] for _ in sessions]
    room = [_KEPT for _ in sessions]
    before = _Usage()
    gc.collect()
    gc.disable()
    try:
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline or len(wall) < min_rounds:
            which = len(wall) % len(feeds)
            if len(wall) % 2:
                order.reverse()  # who follows whom is balanced over two rounds
            else:
                shuffle.shuffle(order)
            fastest, cheapest = [0] * len(sessions), [0] * len(sessions)
            for i in order:
                calls, fastest[i], cheapest[i] = _chunk(
                    runs[i][which], counts[which], typical[which] < _LONG_NS
                )
                if room[i] > 0:
                    kept[i].append(calls[: room[i]])
                    room[i] -= len(calls)
            wall.append(fastest)
            cpu.append(cheapest)
    finally:
        gc.enable()
    return {
        "wall": np.array(wall, np.int64),
        "cpu": np.array(cpu, np.int64),
        "calls": [np.concatenate(times) for times in kept],
        "counts": counts,
        **before.until_now(),
    }


def _calls(run: Run, limit_ns: int, most: int) -> list[int]:
    clock = time.perf_counter_ns
    times: list[int] = []
    total = 0
    while total < limit_ns and len(times) < most:
        start = clock()
        run()
        times.append(clock() - start)
        total += times[-1]
    return times


def _chunk(run: Run, count: int, settle: bool) -> tuple[np.ndarray[Any, Any], int, int]:
    """Times of ``count`` calls, the fastest, and the least CPU time per call over a short stretch."""
    clock, cpu_clock = time.perf_counter_ns, time.thread_time_ns
    if settle:
        run()  # the first call after a switch pays for cold caches
    times = np.empty(count, np.int64)
    batch = max(1, count * _BATCH_NS // _CHUNK_NS)
    cheapest = 1 << 62
    for first in range(0, count, batch):
        last = min(first + batch, count)
        cpu = cpu_clock()
        for i in range(first, last):
            start = clock()
            run()
            times[i] = clock() - start
        cheapest = min(cheapest, (cpu_clock() - cpu) // (last - first))
    return times, int(times.min()), cheapest


class _Usage:
    """What this process and the whole machine used since it was made."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> dict[str, float]:
        usage = {"elapsed": time.perf_counter(), "own": time.process_time(), "switches": 0.0}
        try:
            import resource

            usage["switches"] = float(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)
        except ImportError:  # not on Windows
            pass
        stat = Path("/proc/stat")
        ticks = [0] * 10
        if stat.exists():
            ticks = [int(field) for field in stat.read_text().splitlines()[0].split()[1:]] + ticks
        user, nice, system, _, _, irq, softirq, stolen = ticks[:8]
        second = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        return {
            **usage,
            "busy": (user + nice + system + irq + softirq) / second,
            "stolen": stolen / second,
        }

    def until_now(self) -> dict[str, float]:
        return {key: value - self._start[key] for key, value in self._read().items()}
