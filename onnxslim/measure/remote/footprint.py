"""What a model costs a process of its own: time until it answers, and memory; runs in the worker process."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxslim.runtime.sessions import Session

__all__ = ["footprint", "memory"]

_CALLS = 5  # until the arena has what it needs


def footprint(model: bytes | str, feed: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Create a session and call it, in a process that has done nothing else yet.

    Args:
        model: a message or a path.
        options: of :class:`onnxslim.runtime.sessions.Session`.

    Returns:
        ``session_s``, ``first_s``: wall seconds to create the session, and of its first call;
        ``rss_bytes``: what the process holds more than before; ``peak_rss_bytes``: the most that the whole
        process ever held; ``arena_bytes``: what onnxruntime's arena holds for activations and packed weights.
        Bytes are None where nobody tells.
    """
    before = memory("VmRSS")
    start = time.perf_counter()
    session = Session(model, **options)
    created = time.perf_counter()
    run = session.bind(feed)
    bound = time.perf_counter()
    run()
    answered = time.perf_counter()
    for _ in range(_CALLS - 1):
        run()
    after, peak = memory("VmRSS"), memory("VmHWM")
    del session, run
    return {
        "session_s": created - start,
        "first_s": answered - bound,
        "rss_bytes": None if before is None or after is None else max(0, after - before),
        "peak_rss_bytes": peak,
        "arena_bytes": _arena(model, feed, options),
    }


def _arena(model: bytes | str, feed: Mapping[str, Any], options: Mapping[str, Any]) -> int | None:
    """The most that the events of a profiled session say; a session of its own, since profiling costs."""
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        session = Session(model, **{**options, "profile": str(Path(folder) / "events")})
        run = session.bind(feed)
        for _ in range(2):
            run()
        events = json.loads(Path(session.ort.end_profiling()).read_text(encoding="utf-8"))
    held = [int(args["mem_arena_held"]) for e in events if "mem_arena_held" in (args := e.get("args", {}))]
    return max(held, default=None)


def memory(field: str) -> int | None:
    """A line of ``/proc/self/status`` in bytes."""
    status = Path("/proc/self/status")
    found = re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return 1024 * int(found[1]) if found else None
