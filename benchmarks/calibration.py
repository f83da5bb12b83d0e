"""Calibration at length: memory, cost beside onnxruntime, interruptions, and the bits of several workers.

    python -m benchmarks.calibration ppocr_rec minilm_fp32 --zoo ROOT

Every run is a process of its own: ``onnxslim calibrate``, or onnxruntime's percentile calibrator with one
thread.  The task's inputs are repeated with noise until there are enough.  CPU time (user + system, of the
whole process tree) per sample is the slope between a short and a long run, so that starting and writing the
result do not count; here all feeds have the shape of the middle one, since the peer fails on others.  Memory
is the peak of the largest process.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import model_path
from onnxslim.calibration.joined import joined
from onnxslim.calibration.store import Calibration

DISTINCT = (
    63  # inputs of the task, odd so that evenly spaced samples meet all; the others are these with noise
)
OURS, PEER = (16, 48), (4, 10)  # samples: the peer keeps every activation in memory
BITS = 128  # samples of the runs whose bits are compared
HEADER = ("model", "samples", "peak MB", "CPU ms / sample", "onnxruntime's", "ratio", "killed", "workers")


@dataclass
class Run:
    """One process: CPU seconds, peak memory in bytes, wall seconds."""

    samples: int
    cpu_s: float
    peak: int
    wall_s: float


@dataclass
class Figures:
    """All that was measured on one model; of interrupted runs and of several workers, whether their bits were
    those of a plain run."""

    model: str
    growing: list[Run] = field(default_factory=list)
    ours: list[Run] = field(default_factory=list)
    peer: list[Run] = field(default_factory=list)
    peer_failed: str = ""
    killed: dict[str, bool] = field(default_factory=dict)
    workers: dict[str, bool] = field(default_factory=dict)


def store(own: Sequence[dict[str, np.ndarray]], count: int, folder: Path) -> Path:
    """A folder of ``count`` feeds: ``own``, then the same with a little noise on what is a float."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number, feed in zip(range(count), itertools.cycle(own), strict=False):
        if number >= len(own):
            feed = {name: _noisy(value, rng) for name, value in feed.items()}
        np.savez(folder / f"{number:05}.npz", **feed)  # type: ignore[arg-type]
    return folder


def _noisy(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if value.dtype.kind != "f":
        return value
    return (value * (1 + 0.05 * rng.standard_normal(value.shape))).astype(value.dtype)


def process(command: Sequence[str], samples: int) -> Run:
    """Run to the end.

    Raises:
        RuntimeError: it fails.
    """
    begun = time.monotonic()
    with tempfile.TemporaryFile() as said:
        started = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {said.read().decode(errors='replace')}")
    return Run(samples, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, time.monotonic() - begun)


def calibrate(model: Path, data: Path, samples: int, output: Path, *more: str) -> list[str]:
    """The command line."""
    base = [sys.executable, "-m", "onnxslim", "calibrate", str(model), "--data", str(data), "-o", str(output)]
    return [*base, "--samples", str(samples), "--force", "-q", *more]


def kill(command: Sequence[str], after_s: float) -> bool:
    """Start, kill after a while; whether there was still something to kill."""
    started = subprocess.Popen(command)
    try:
        started.wait(after_s)
    except subprocess.TimeoutExpired:
        started.send_signal(signal.SIGKILL)
        started.wait()
        return True
    return False


def same_bits(one: Path, other: Path) -> bool:
    """Whether two calibrations hold the same."""
    a, b = (joined(Calibration.load(path).states) for path in (one, other))
    return all(a[key].tobytes() == b[key].tobytes() for key in a)


def per_sample(runs: Sequence[Run]) -> float:
    """CPU seconds: the slope from the first to the last."""
    return (runs[-1].cpu_s - runs[0].cpu_s) / (runs[-1].samples - runs[0].samples)


def measure(name: str, counts: Sequence[int], folder: Path, seed: int = 0) -> Figures:
    """Everything about one model of the zoo."""
    figures, model = Figures(name), model_path(name).resolve()
    own = list(importlib.import_module(f"benchmarks.zoo.tasks.{name}").inputs(DISTINCT))
    own.sort(key=lambda feed: -sum(value.nbytes for value in feed.values()))  # the largest is in every run
    middle = own[len(own) // 2 :][:1]
    data = store(own, max(*counts, BITS), folder / "feeds")
    even = store(middle, max(*OURS, *PEER), folder / "even")
    for count in counts:
        figures.growing.append(process(calibrate(model, data, count, folder / "cal.npz"), count))
    for count in OURS:
        figures.ours.append(process(calibrate(model, even, count, folder / "cal.npz"), count))
    for count in PEER:
        command = [sys.executable, "-m", "benchmarks.calibration_peer", str(model), str(even), str(count)]
        try:
            figures.peer.append(process(command, count))
        except RuntimeError as error:
            figures.peer_failed = str(error).strip().splitlines()[-1]
    plain = folder / "plain.npz"
    run = process(calibrate(model, data, BITS, plain), BITS)
    for moment in np.random.default_rng(seed).uniform(0.1, 0.95, 3):
        output = folder / "killed.npz"
        after_s = float(moment) * run.wall_s
        while output.unlink(missing_ok=True) or not kill(calibrate(model, data, BITS, output), after_s):
            after_s /= 2  # the machine was busier before
        process(calibrate(model, data, BITS, output, "--resume"), BITS)
        figures.killed[f"at {moment:.0%}"] = same_bits(plain, output)
    for workers in (1, 2, 3):
        output = folder / "workers.npz"
        process(calibrate(model, data, BITS, output, "--workers", str(workers)), BITS)
        figures.workers[str(workers)] = same_bits(plain, output)
    return figures


def rows(figures: Figures) -> list[tuple[str, ...]]:
    """The rows of the table: one per number of samples, the verdicts in the first."""
    ours = per_sample(figures.ours)
    peer = None if figures.peer_failed else per_sample(figures.peer)
    table = []
    for number, run in enumerate(figures.growing):
        first = number == 0
        cells = (
            f"{ours * 1e3:.1f}",
            "fails" if peer is None else f"{peer * 1e3:.1f}",
            "" if peer is None else f"{ours / peer:.2f}",
            f"{sum(figures.killed.values())} of {len(figures.killed)} same",
            f"{sum(figures.workers.values())} of {len(figures.workers)} same",
        )
        blank = ("",) * len(cells)
        table.append(
            (figures.model if first else "", str(run.samples), f"{run.peak / 1e6:.0f}")
            + (cells if first else blank)
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["ppocr_rec"], help="of the zoo; default ppocr_rec")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which a run is killed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where calibration.md and .json go")
    given = parser.parse_args(arguments)
    os.environ["ZOO"] = str(given.zoo.resolve())
    found = []
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(name, given.samples, Path(folder), given.seed))
    table = markdown(HEADER, [row for figures in found for row in rows(figures)])
    write(given.results, "calibration", table, found)
    print(table)
    held = all(all(f.killed.values()) and all(f.workers.values()) for f in found)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
