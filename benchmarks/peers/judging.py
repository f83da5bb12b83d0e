"""One judge for every candidate: the task's score, noise, bytes and time, against the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from benchmarks.compress import sqnr_db
from benchmarks.peers.methods import BuildError
from benchmarks.peers.rows import Row
from benchmarks.zoo.layout import model_path, task
from onnxslim.measure.latency import measure_latency
from onnxslim.measure.metrics import MetricResult
from onnxslim.model.io import file_info

FEEDS = 16  # that every method calibrates on


@dataclass(frozen=True)
class Judge:
    """How candidates are measured; ``budget_s`` is spent on timing each."""

    threads: int = 1
    budget_s: float = 20.0

    @property
    def version(self) -> str:
        """What scores and times depend on."""
        return f"judge onnxruntime=={onnxruntime.__version__}"


class Subject:
    """A model of the zoo.

    Raises:
        FileNotFoundError: it is not there.
        ImportError: its task needs what is not installed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = model_path(name)
        self.info = file_info(self.path)
        self.task = task(name)

    @cached_property
    def score(self) -> MetricResult:
        """Of the original."""
        found: MetricResult = self.task.score(str(self.path))
        return found

    def prepare(self, folder: Path) -> tuple[Path, Path]:
        """A copy of the model that holds its weights, and a folder of feeds to calibrate on."""
        source, feeds = folder / "source" / "model.onnx", folder / "feeds"
        for made in (source.parent, feeds):
            made.mkdir()
        onnx.save(onnx.load(self.path), source)
        for number, feed in enumerate(islice(self.task.inputs(FEEDS), FEEDS)):
            np.savez(feeds / f"{number:02d}.npz", **feed)
        return source, feeds


def begun(subject: Subject, method: str, versions: Sequence[str], judge: Judge) -> Row:
    """The row before anything is measured."""
    return Row(subject.name, method, subject.info.sha256, (*versions, judge.version), judge.threads)


def measure(subject: Subject, row: Row, build: Callable[[Path], None], judge: Judge, folder: Path) -> Row:
    """Let a candidate be built in an empty folder and judge it; whatever fails is the row's reason."""
    before = subject.score
    candidate = folder / "model.onnx"
    try:
        build(candidate)
        # first what happens in a process of its own: a candidate may kill the runtime
        time, interval = _time(subject, candidate, judge)
        after = subject.task.score(str(candidate))
        return replace(
            row,
            before=before.value,
            after=after.value,
            n=after.n,
            after_interval=after.interval,
            sqnr_db=sqnr_db(subject.path, candidate, subject.task.held_out()),
            bytes=sum(file.stat().st_size for file in folder.iterdir()) / subject.info.bytes,
            time=time,
            time_interval=interval,
        )
    except BuildError as error:
        return replace(row, failure=f"not built: {error}")
    except (
        Exception
    ) as error:  # onnxruntime has no common base; a task stumbles over changed inputs and outputs
        return replace(row, failure=f"does not run: {type(error).__name__}: {error}")


def _time(subject: Subject, candidate: Path, judge: Judge) -> tuple[float, tuple[float, float]]:
    if candidate.read_bytes() == subject.path.read_bytes():  # returned unchanged
        return 1.0, (1.0, 1.0)
    found = measure_latency(
        subject.path,
        candidate,
        feeds=subject.task.held_out(),
        threads=judge.threads,
        budget_s=judge.budget_s,
    )
    return found.ratio, found.interval
