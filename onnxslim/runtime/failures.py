"""Words for what the worker reports: short messages from onnxruntime's long ones, and causes of death."""

from __future__ import annotations

import re
import signal

from onnxslim.runtime.errors import MemoryLimit, RemoteError, RuntimeRefused

__all__ = ["cause_of_death", "error_of"]


def cause_of_death(code: int | None, doing: str, tail: str) -> str:
    """One sentence on why the process ended; ``tail`` is the end of what it wrote to stderr."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        meaning = _SIGNALS.get(name)
        return f"onnxruntime died while {doing}: {name}" + (f" ({meaning})" if meaning else "")
    last = f": {tail.splitlines()[-1]}" if tail else ""
    return f"the worker process ended with code {code} while {doing}{last}"


_SIGNALS = {
    "SIGABRT": "it aborted",
    "SIGBUS": "a memory error",
    "SIGFPE": "an integer division by zero or overflow",
    "SIGILL": "an instruction that this processor lacks",
    "SIGKILL": "killed from outside, perhaps for want of memory",
    "SIGSEGV": "a memory error",
}


def error_of(kind: str, message: str, budget: int, doing: str) -> Exception:
    """The exception for a failure that the worker reports."""
    if kind == "memory":
        what = f"{doing} takes more memory than the limit allows ({budget / 2**20:.0f} MB beside the weights)"
        return MemoryLimit(what, hint="use smaller inputs or a smaller batch")
    if kind == "refused":
        what, where = _shortened(message)
        return RuntimeRefused(f"onnxruntime: {what}", where=where)
    return RemoteError(message)


_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Exception during initialization: ")
_NODE = re.compile(
    r"(?:Non-zero status code returned while running )?(\w+) node\. Name:'([^']*)' Status Message: "
)
_SOURCE = re.compile(r"(?:/[\w./+-]+/)?[\w-]+\.(?:cc|h|cu):\d+ [^\n]*?(?:\) |: )")


def _shortened(message: str) -> tuple[str, str | None]:
    """The message without onnxruntime's own source places, in one line; and the node that it names."""
    text, where = _PREFIX.sub("", message.strip()), None
    while match := _NODE.search(text):  # of nodes within nodes, the innermost is to blame
        where = f"{match[1]} node {match[2]!r}" if match[2] else f"a {match[1]} node without name"
        text = text[match.end() :]
    text = " ".join(_SOURCE.sub("", text).split())
    return (text if len(text) <= 300 else text[:297] + "...") or "no message", where
