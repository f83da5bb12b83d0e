"""A metric that is a function decides about the winner alone; a second, cleaner one may stand in for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import onnxslim
from onnxslim.errors import OptionError
from onnxslim.recipes import search as search_module
from onnxslim.recipes.pipeline import Result
from tests.models import proto, run

METRIC = """
import numpy as np, onnx, onnxruntime

CALLS = []

def {name}(path):
    CALLS.append(path)
    feed = {{"x": np.random.default_rng(99).normal(size=(8, 64)).astype("f")}}
    wanted, found = (onnxruntime.InferenceSession(p).run(None, feed)[0] for p in (r"{original}", path))
    with open(r"{log}", "a") as log:
        log.write("scored\\n")
    return 1 - np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    source = proto("g (float[n,64] x) => (float[n,64] y) { a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2) }")
    rng = np.random.default_rng(0)
    for name in ("w1", "w2"):
        array = (rng.normal(size=(64, 64)) ** 3).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return source


@pytest.fixture
def compress(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: onnx.ModelProto
) -> Callable[..., tuple[Result, int]]:
    """Compress by a metric of closeness; the result, and how often it was scored (the original once)."""

    def equal(*_: object, threads: int, **__: object) -> SimpleNamespace:
        known = {"ratio": 1.0, "interval": (0.99, 1.01), "verdict": "equal", "seconds_b": 1.0}
        return SimpleNamespace(**known, reliable=True, threads=threads, to_dict=dict)

    monkeypatch.setattr(search_module, "measure_latency", equal)
    monkeypatch.setattr("onnxslim.recipes.candidates.measure_latency", equal)
    monkeypatch.setattr("onnxslim.recipes.contest.latency_fields", lambda measured, name: {"name": name})
    original, log, code = tmp_path / "original.onnx", tmp_path / "log", tmp_path / "closeness.py"
    onnx.save(model, original)
    code.write_text(METRIC.format(name="closeness", original=original, log=log))
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.normal(size=(8, 64)).astype(np.float32)} for _ in range(24)]

    def call(max_drop: float, **options: Any) -> tuple[Result, int]:
        result = onnxslim.compress(
            original, feeds, metric=f"{code}:closeness", max_drop=max_drop, objective="bytes", **options
        )
        return result, len(log.read_text().splitlines())

    return call


def closeness(model: onnx.ModelProto, result: Result) -> float:
    feed = {"x": np.random.default_rng(99).normal(size=(8, 64)).astype(np.float32)}
    [wanted], [found] = run(model, feed), run(result.to_proto(), feed)
    return float(1 - np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_the_first_choice_is_scored_once(compress: Callable[..., tuple[Result, int]]) -> None:
    result, scored = compress(0.2)
    assert scored == 2 and result.unchanged is None
    assert not any("second" in note for note in result.report.notes)


def test_a_cleaner_one_is_taken_where_the_first_loses_too_much(
    model: onnx.ModelProto, compress: Callable[..., tuple[Result, int]]
) -> None:
    result, scored = compress(0.005)
    assert scored == 3 and result.unchanged is None
    assert closeness(model, result) >= 0.995
    [kept] = [row for row in result.report.tried if row["kept"]]
    [missed] = [row for row in result.report.tried if "scored" in row["reason"]]
    assert kept["sqnr_db"] >= missed["sqnr_db"] + 10 and "second look" in kept["name"]
    assert any("scored in its place" in note for note in result.report.notes)


def test_what_is_asked_of_the_noise_holds(
    model: onnx.ModelProto, compress: Callable[..., tuple[Result, int]]
) -> None:
    """Where the smallest form is too noisy a milder one is looked for; out of reach, nothing changes."""
    [kept] = [row for row in compress(1.0)[0].report.tried if row["kept"]]
    wanted = kept["sqnr_db"] + 6
    result, _ = compress(1.0, min_sqnr=wanted)
    assert result.unchanged is None
    [milder] = [row for row in result.report.tried if row["kept"]]
    assert milder["sqnr_db"] >= wanted and kept["bytes_ratio"] < milder["bytes_ratio"] < 0.6
    assert all(row["sqnr_db"] >= wanted or row["reason"] for row in result.report.tried if row["sqnr_db"])
    assert any(f"below {wanted:g} dB" in row["reason"] for row in result.report.tried)
    [nothing] = [row for row in compress(1.0, min_sqnr=400)[0].report.tried if row["kept"]]
    assert nothing["name"] == "simplified only"


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_noise_that_cannot_be_asked_for(bad: float, compress: Callable[..., tuple[Result, int]]) -> None:
    with pytest.raises(OptionError, match="min-sqnr"):
        compress(0.1, min_sqnr=bad)


def test_a_third_is_not_tried(model: onnx.ModelProto, compress: Callable[..., tuple[Result, int]]) -> None:
    result, scored = compress(1e-7)
    assert scored <= 3 and closeness(model, result) >= 1 - 1e-7


def test_the_report_has_times_with_every_number_of_threads(
    compress: Callable[..., tuple[Result, int]],
) -> None:
    report = compress(0.2, threads=[1, 2])[0].report
    assert [found["name"] for found in report.scenarios] == ["1 thread", "2 threads"]
    assert report.latency == report.scenarios[0]
    [kept] = [row for row in report.tried if row["kept"]]
    assert [found["threads"] for found in kept["scenarios"]] == [1, 2]
    alone = compress(0.2)[0].report
    assert not alone.scenarios and all("scenarios" not in row for row in alone.tried)
