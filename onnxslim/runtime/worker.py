"""The worker process: runs models on the client's behalf, since onnxruntime can die on a valid file.

``python -m onnxslim.runtime.worker`` reads requests from stdin and answers on stdout, one at a time, until
stdin ends.  It imports numpy, and onnxruntime at the first need.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim.runtime import framing

if TYPE_CHECKING:
    from onnxslim.runtime.sessions import Session

__all__ = ["main"]

_OUT_OF_MEMORY = re.compile(
    r"bad[_ ]alloc|Failed to allocate memory|Cannot allocate memory|out of memory", re.I
)
_PER_THREAD = 136 << 20  # address space of a thread: 8 MB of stack and a malloc arena of 128 MB


class _Worker:
    """The sessions of one process and the limit on its memory."""

    def __init__(self) -> None:
        self.sessions: dict[int, Session] = {}
        self.allowance: dict[int, int] = {}
        self.baseline: int | None = None
        self.requests: dict[str, Callable[..., Any]] = {
            "load": self.load,
            "run": self.run,
            "close": self.close,
            "call": self.call,
        }

    def load(
        self, model: bytes | str, number: int, budget: int, weights: int, limited: bool, **options: Any
    ) -> dict[str, Any]:
        self.allowance[number] = 2 * weights + (options["threads"] - 1) * _PER_THREAD
        self._limit_memory(budget, limited)
        from onnxslim.runtime.sessions import Session

        session = Session(model, **options)
        self.sessions[number] = session
        return {"inputs": session.inputs, "outputs": session.outputs, "encodings": session.encodings}

    def run(self, session: int, feed: dict[str, Any], outputs: list[str] | None) -> list[Any]:
        return self.sessions[session].run(feed, outputs)

    def close(self, session: int) -> None:
        self.sessions.pop(session, None)
        self.allowance.pop(session, None)

    def call(
        self, function: str, args: list[Any], kwargs: dict[str, Any], budget: int, weights: int, limited: bool
    ) -> Any:
        self.allowance[0] = 2 * weights
        self._limit_memory(budget, limited)
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(
            *self._with_sessions(args), **self._with_sessions(kwargs)
        )

    def _with_sessions(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._with_sessions(each) for each in item]
        if isinstance(item, dict):
            if item.keys() == {framing.SESSION}:
                return self.sessions[item[framing.SESSION]].ort
            if framing.BOUND in item:
                bind = self.sessions[item[framing.BOUND]].bind
                return functools.partial(bind, device=item["device"])
            return {key: self._with_sessions(value) for key, value in item.items()}
        return item

    def _limit_memory(self, budget: int, limited: bool) -> None:
        """Limit the address space: baseline + 2 x weights + budget.

        A mapping of the weights counts, and onnxruntime may hold a second, packed copy.  Accelerators reserve
        address space far beyond what they use: no limit with them.
        """
        statm = Path("/proc/self/statm")
        if not statm.exists():  # only Linux both tells the size and enforces the limit
            return
        import resource

        if self.baseline is None:
            import onnxruntime  # noqa: F401  (its own footprint belongs to the baseline)

            self.baseline = int(statm.read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = self.baseline + budget + sum(self.allowance.values())
        soft = hard if not limited else wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _failure(error: BaseException, request: str) -> dict[str, str]:
    message = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(message):
        kind = "memory"
    elif request != "call" or type(error).__module__.startswith("onnxruntime"):
        kind = "refused"
    else:
        kind, message = "bug", traceback.format_exc()
    return {"error": kind, "message": message}


def _exit_with(stream: int) -> None:
    """End the process when the client is gone, even in the middle of a long run."""
    if not hasattr(select, "poll"):
        return

    def watch() -> None:
        poll = select.poll()
        poll.register(stream, 0)  # no events asked for: only a hang-up is reported
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    # libraries may print: what they write to stdout must not mix with the answers
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's business, which then ends us
    _exit_with(requests)
    worker = _Worker()
    with (
        os.fdopen(requests, "rb", buffering=0) as incoming,
        os.fdopen(answers, "wb", buffering=0) as outgoing,
        contextlib.suppress(EOFError, BrokenPipeError),
    ):
        while True:
            request, arguments = framing.read(incoming)
            try:
                answer = framing.encode({"value": worker.requests[request](**arguments)})
            except BaseException as error:
                if request == "load":
                    worker.close(arguments["number"])
                answer = framing.encode(_failure(error, request))
            del arguments
            framing.write(outgoing, answer)
            del answer
    sys.stderr.flush()
    os._exit(0)  # without onnxruntime's destructors, which can themselves crash


if __name__ == "__main__":
    main()
