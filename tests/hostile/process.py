"""Run the command line as a user does, and watch the memory of its whole process tree."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Outcome", "run_cli"]

_PAGE = os.sysconf("SC_PAGESIZE")
_POLL_S = 0.01


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``peak_bytes`` is the largest sum of resident memory over all its processes."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int


def run_cli(*arguments: str | os.PathLike[str], timeout: float = 60, cwd: Path | None = None) -> Outcome:
    """Run ``onnxslim`` with arguments; a timeout kills the tree and gives the code -9.

    Resident memory counts mapped pages too; it is polled every 10 ms.
    """
    command = [sys.executable, "-m", "onnxslim", *map(os.fspath, arguments)]
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    )
    peak, seen = 0, {process.pid}
    while process.poll() is None:
        seen |= _descendants(process.pid)
        peak = max(peak, sum(map(_resident, seen)))
        if time.monotonic() - started > timeout:
            for pid in seen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    seconds = time.monotonic() - started
    stdout, stderr = process.communicate()
    assert not any(_alive(pid) for pid in seen - {process.pid}), "a process was left behind"
    return Outcome(process.returncode, stdout, stderr, seconds, peak)


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= {int(child)} | _descendants(int(child))
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
