"""One worker, several, or somebody else's: the same bits, and the first bad sample is named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from onnxslim.calibration import executor
from onnxslim.calibration.executor import Chunk, Job, LocalExecutor, Outcome, Outcomes
from onnxslim.calibration.joined import separated
from onnxslim.calibration.observe import observe
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import CalibrationError, OptionError, ResourceError
from onnxslim.runtime.client import Worker
from onnxslim.runtime.providers import available
from onnxslim.runtime.sources import payload_of
from tests.calibration.reference import CONV, images, same_bits
from tests.models import proto


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every worker process that is started."""
    started: list[Any] = []
    running = Worker._running

    def watched(worker: Worker) -> Any:
        process = running(worker)
        if process not in started:
            started.append(process)
        return process

    monkeypatch.setattr(Worker, "_running", watched)
    return started


def test_bits_do_not_depend_on_the_number_of_workers(processes: list[Any]) -> None:
    data = {"x": images(100)}
    alone = calibrate(proto(CONV), data, second_moments=["r"])
    for workers in (2, 3):
        processes.clear()
        assert same_bits(alone, calibrate(proto(CONV), data, second_moments=["r"], workers=workers))
        assert len(processes) >= workers  # and one that tells the types
        assert all(process.poll() is not None for process in processes)


def test_few_chunks_for_many_workers() -> None:
    data = {"x": images(3)}
    assert same_bits(calibrate(proto(CONV), data), calibrate(proto(CONV), data, workers=5))


def test_chunks_are_not_read_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_WAITING_BYTES", 1)
    read: list[int] = []
    merged: list[int] = []
    ahead: list[int] = []
    chunks = 6

    def feeds() -> Iterable[dict[str, np.ndarray]]:
        read.clear()
        for number in range(16 * chunks):
            if number % 16 == 0:
                read.append(number)
                ahead.append(len(read) - len(merged))
            yield {"x": np.full((1, 2, 4, 5), number, np.float32)}

    class Counting(LocalExecutor):
        def run(self, job: Job, given: Iterable[Chunk], told: Callable[[int], object]) -> Outcomes:
            ahead.clear()
            for outcome in super().run(job, given, told):
                merged.append(outcome.index)
                yield outcome

    calibrate(proto(CONV), feeds, executor=Counting(3))
    assert merged == list(range(chunks)) and max(ahead) <= 2


class Elsewhere:
    """As a distributed engine would: plain bytes in, states out, chunks finished in any order."""

    def run(self, job: Job, chunks: Iterable[Chunk], told: Callable[[int], object]) -> Outcomes:
        import onnxruntime as ort

        with payload_of(job.model) as payload:
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads = 1
            session = ort.InferenceSession(payload.model, options, providers=list(job.providers))
        done = {}
        for chunk in reversed(list(chunks)):
            answer = observe([s.feed for s in chunk.samples], {}, session=session, **job.request)
            done[chunk.index] = Outcome(chunk.index, len(chunk.samples), separated(answer["states"]))
            told(len(chunk.samples))
        yield from (done[index] for index in sorted(done))


def test_an_executor_of_somebody_else() -> None:
    data = {"x": images(70)}
    assert same_bits(calibrate(proto(CONV), data), calibrate(proto(CONV), data, executor=Elsewhere()))


MASKED = """
net (float[2] x, float[2] mask) => (float[2] y)
{ masked = Log (mask)  a = Add (x, masked)  y = Exp (a) }
"""


def masked(count: int, **odd: float) -> list[dict[str, np.ndarray]]:
    masks = [odd.get(f"at_{i}", 1.0) for i in range(count)]
    return [{"x": np.float32([i, -2]), "mask": np.float32([1, m])} for i, m in enumerate(masks)]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_bad_sample_is_named(workers: int, processes: list[Any]) -> None:
    with pytest.raises(CalibrationError, match="'y' is NaN") as caught:
        calibrate(proto(MASKED), masked(80, at_37=-1, at_50=-1, at_70=-1), workers=workers)
    assert "sample 37" in str(caught.value)
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_bad_sample_comes_before_unreadable_data(workers: int) -> None:
    feeds = masked(80, at_37=-1)
    feeds[60]["x"] = np.float32([np.nan, 0])
    with pytest.raises(CalibrationError, match="'y' is NaN"):
        calibrate(proto(MASKED), feeds, workers=workers)
    feeds[37]["mask"] = np.ones(2, np.float32)
    with pytest.raises(CalibrationError, match="the data holds NaN") as caught:
        calibrate(proto(MASKED), feeds, workers=workers)
    assert "sample 60" in str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tensor_that_is_infinite_somewhere_is_skipped(workers: int) -> None:
    found = calibrate(proto(MASKED), masked(60, at_20=0, at_40=0), workers=workers)
    assert list(found.states) == ["x", "mask", "y"]
    assert "sample 20" in found.skipped["masked"] and "Inf" in found.skipped["masked"]
    assert found.histogram("y").total == 120


def test_a_sample_that_kills_one_of_several_workers_is_named(processes: list[Any]) -> None:
    text = "net (int64[1] a, int64[1] b) => (float[1] y) { q = Div (a, b)  y = Cast <to = 1> (q) }"
    numerators = [5] * 40
    numerators[33] = np.iinfo(np.int64).min
    feeds = [{"a": np.array([a]), "b": np.array([-1])} for a in numerators]
    with pytest.raises(ResourceError, match="died") as caught:
        calibrate(proto(text), feeds, workers=2)
    assert "sample 33" in str(caught.value)
    assert all(process.poll() is not None for process in processes)


def test_interrupting_ends_every_worker(processes: list[Any]) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if threading.current_thread() is threading.main_thread():
            return
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(proto(CONV), {"x": images(100)}, workers=2, progress=interrupt)
    assert len(processes) >= 2 and all(process.poll() is not None for process in processes)


def test_chunks_run_on_the_providers_that_are_named() -> None:
    seen: list[tuple[str, ...]] = []

    class Watched(LocalExecutor):
        def run(self, job: Job, chunks: Iterable[Chunk], told: Callable[[int], object]) -> Outcomes:
            seen.append(job.providers)
            yield from super().run(job, chunks, told)

    others = [name for name in available() if name != "CPUExecutionProvider"]
    names = [*others[-1:], "CPUExecutionProvider"]
    calibrate(proto(CONV), {"x": images(2)}, providers=names, executor=Watched())
    assert seen == [tuple(names)]
    with pytest.raises(OptionError, match="no provider"):
        calibrate(proto(CONV), {"x": images(2)}, providers=["cud"])


def test_wrong_options() -> None:
    for options in ({"workers": 0}, {"workers": 2, "executor": Elsewhere()}, {"resume": True}):
        with pytest.raises(OptionError):
            calibrate(proto(CONV), {"x": images(2)}, **options)  # type: ignore[arg-type]
