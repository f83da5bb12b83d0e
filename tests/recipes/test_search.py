"""The search keeps what pays, and says of every other candidate why not; times are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.model.io import load, save
from onnxslim.passes import RemoveDeadCode
from onnxslim.passes.base import Pass, Promise
from onnxslim.recipes import recipe
from onnxslim.recipes import search as search_module
from onnxslim.recipes.budget import parse_latency_target, parse_size_target
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.engine import Outcome
from onnxslim.recipes.quality import Score
from onnxslim.recipes.search import Search, Start, Trial


@dataclass(frozen=True)
class Resize(Pass):
    """Makes the model's only weight ``count`` numbers long (stands for a compression)."""

    name: ClassVar[str] = "resize-weight"
    promise: ClassVar[Promise] = Promise.LOSSY
    count: int = 100
    error: bool = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if self.error:
            raise ValueError("broken")
        edit.replace_initializer(model.graph.initializers["w"], np.ones(self.count, np.float32))
        return ir.passes.PassResult(model, True)


@pytest.fixture
def base() -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17}, name="g")
    weight = edit.add_initializer(graph, np.ones(100, np.float32), "w")
    node = ir.node("Add", [x, weight])
    node.outputs[0].name = "y"
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=8)


class FakeJudge:
    def __init__(self, rejected_above: int = 10**9) -> None:
        self.rejected_above = rejected_above

    def score(self, model: ir.Model) -> Score:
        size = model.graph.initializers["w"].const_value
        assert size is not None
        rejected = "too noisy" if size.size > self.rejected_above else None
        return Score("top1", 1.0, 1.0, 10, 40.0, rejected)


def make(tmp_path: Path, base: ir.Model, judge: Any = None, **options: Any) -> Search:
    folder = tmp_path / "tried"
    folder.mkdir(parents=True)
    file = save(base, tmp_path / "original.onnx")
    return Search(file, judge or FakeJudge(), folder, [], **options)


def run(
    search: Search, base: ir.Model, candidates: Sequence[Candidate], overrides: Any = MappingProxyType({})
) -> tuple[Trial | None, list[Trial]]:
    """The best of one start, and every trial."""
    trials = search.explore(Start("", Outcome(base), lambda: candidates), overrides)
    return search.choose(trials), trials


def times(
    monkeypatch: pytest.MonkeyPatch, by_bytes: dict[int, tuple[float, float]], with_two: float = 1.0
) -> list[float]:
    """The file with n numbers in its weight takes ``by_bytes[n]``: a ratio, and half of its interval.

    With two threads the ratio is ``with_two`` times as large.
    """
    budgets: list[float] = []

    def measure_latency(a: str, b: str, *, budget_s: float, threads: int, **_: Any) -> Any:
        budgets.append(budget_s)
        weight = load(b).graph.initializers["w"].const_value
        assert weight is not None
        ratio, half = by_bytes[weight.size]
        ratio *= with_two if threads == 2 else 1
        verdict = "slower" if ratio - half > 1.02 else "faster" if ratio + half < 0.98 else "equal"
        return SimpleNamespace(
            ratio=ratio,
            interval=(ratio - half, ratio + half),
            verdict=verdict,
            seconds_b=ratio,
            reliable=True,
            threads=threads,
        )

    monkeypatch.setattr(search_module, "measure_latency", measure_latency)
    return budgets


def test_the_lowest_time_times_bytes_wins(
    tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, {20: (0.9, 0.01), 60: (0.5, 0.01)})
    wanted = [Candidate("small", (Resize(20),)), Candidate("fast", (Resize(60),))]
    best, trials = run(make(tmp_path, base), base, wanted)
    assert best is trials[0]


def test_nothing_may_be_slower_with_any_number_of_threads(
    tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is faster with one thread and slower with two, one is hardly faster with either."""
    budgets = times(monkeypatch, {20: (0.5, 0.01), 60: (0.45, 0.01)}, with_two=2.1)
    wanted = [Candidate("small", (Resize(20),)), Candidate("fair", (Resize(60),))]
    best, trials = run(make(tmp_path, base, threads=(1, 2), screen_s=1, final_s=3), base, wanted)
    assert best is trials[1]
    assert (trials[0].rejected or "").startswith("with 2 threads slower, or not shown not to be")
    assert budgets == [1, 1, 1, 1, 3, 3], "every look is at both"
    row = best.to_dict(make(tmp_path / "again", base).original)
    assert row["ratio"] == pytest.approx(0.945) and row["interval"] == pytest.approx([0.935, 0.955])
    assert [(found["threads"], found["ratio"]) for found in row["scenarios"]] == [
        (1, 0.45),
        (2, pytest.approx(0.945)),
    ]


def test_the_worst_ratio_of_several_threads_counts(
    tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "measure_latency", lambda a, b, *, threads, **_: look(b, threads))
    ratios = {(20, 1): 0.3, (20, 2): 0.9, (60, 1): 0.5, (60, 2): 0.5}

    def look(file: str, threads: int) -> Any:
        weight = load(file).graph.initializers["w"].const_value
        assert weight is not None
        ratio = ratios[weight.size, threads]
        known = {"verdict": "faster", "reliable": True, "seconds_b": ratio, "threads": threads}
        return SimpleNamespace(ratio=ratio, interval=(ratio - 0.01, ratio + 0.01), **known)

    wanted = [Candidate("uneven", (Resize(20),)), Candidate("even", (Resize(60),))]
    for number, (threads, target, name) in enumerate(
        [((1,), None, "uneven"), ((1, 2), None, "even"), ((1, 2), "0.4x", None)]
    ):
        latency = parse_latency_target(target) if target else None
        folder = tmp_path / str(number)
        search = make(folder, base, threads=threads, objective="latency", latency=latency)
        best, _ = run(search, base, wanted)
        assert (best and best.name) == name


def test_the_objective_decides(tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, {20: (0.9, 0.01), 60: (0.5, 0.01)})
    wanted = [Candidate("small", (Resize(20),)), Candidate("fast", (Resize(60),))]
    best, _ = run(make(tmp_path, base, objective="latency"), base, wanted)
    assert best is not None
    assert best.name == "fast"


def test_bytes_do_not_buy_time(tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a percent of the bytes is no reason to be a percent slower; and nobody wins at the very limit."""
    times(monkeypatch, {58: (1.012, 0.001), 60: (1.001, 0.001), 20: (1.018, 0.001)})
    wanted = [Candidate("slower", (Resize(58),)), Candidate("fair", (Resize(60),))]
    best, _ = run(make(tmp_path, base), base, wanted)
    assert best is not None
    assert best.name == "fair"
    folder = tmp_path / "limit"
    folder.mkdir()
    best, trials = run(make(folder, base), base, [Candidate("at the limit", (Resize(20),))])
    assert best is None
    assert "not shown not to be" in (trials[0].rejected or "")


def test_what_does_not_pay_is_rejected_with_its_reason(
    tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = times(monkeypatch, {10: (1.3, 0.01), 30: (1.01, 0.05), 50: (0.99, 0.01)})
    wanted = [
        Candidate("slow", (Resize(10),)),
        Candidate("unsure", (Resize(30),)),
        Candidate("larger", (Resize(200),)),
        Candidate("noisy", (Resize(80),)),
        Candidate("broken", (Resize(5, error=True),)),
        Candidate("fair", (Resize(50),)),
    ]
    search = make(tmp_path, base, FakeJudge(70), screen_s=1, final_s=3)
    best, trials = run(search, base, wanted)
    assert best is not None
    assert best.name == "fair"
    reasons = {trial.name: trial.rejected or "" for trial in trials}
    assert "slower" in reasons["slow"]
    assert "not shown not to be" in reasons["unsure"]
    assert "larger than the original" in reasons["larger"]
    assert reasons["noisy"] == "too noisy"
    assert "broken" in reasons["broken"]
    assert budgets == [1, 1, 1, 3, 6, 3], "the unsure one is measured longer, and once more"


def test_targets_reject(tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, {20: (0.9, 0.01), 60: (0.5, 0.01)})
    wanted = [Candidate("small", (Resize(20),)), Candidate("fast", (Resize(60),))]
    options = {"latency": parse_latency_target("0.7x"), "size": parse_size_target("0.5x")}
    best, trials = run(make(tmp_path, base, **options), base, wanted)
    assert best is None
    assert "misses the target latency" in (trials[0].rejected or "")
    assert "miss the target size" in (trials[1].rejected or "")


def test_of_equal_files_the_simpler_candidate_counts(
    tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = times(monkeypatch, {20: (0.5, 0.01)})
    wanted = [Candidate("elaborate", (Resize(20), Resize(20))), Candidate("simple", (Resize(20),))]
    best, trials = run(make(tmp_path, base, screen_s=1, final_s=3), base, wanted)
    assert best is trials[1]
    assert trials[0].rejected == "gives the same file as simple"
    assert budgets == [1, 3], "one file is measured once"


def test_no_candidate_is_begun_after_the_deadline(
    tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, {20: (0.5, 0.01)})
    wanted = [Candidate("first", (Resize(20),)), Candidate("second", (Resize(30),))]
    best, trials = run(make(tmp_path, base, deadline=0.0), base, wanted)
    assert best is trials[0]
    assert "--time was used up" in (trials[1].rejected or "")


def test_options_go_to_the_candidates_that_have_the_pass(
    tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, {20: (0.5, 0.01), 100: (0.9, 0.01)})
    wanted = [Candidate("resized", (Resize(50),)), Candidate("cleaned", (RemoveDeadCode(),))]
    searching = make(tmp_path, base)
    monkeypatch.setattr(recipe, "make_pass", lambda name, options: Resize(**options))
    best, trials = run(searching, base, wanted, {"resize-weight": {"count": 20}})
    assert best is trials[0] and best.model is not None
    assert best.model.graph.initializers["w"].shape == (20,)
    with pytest.raises(OptionError, match="no pass 'resize-wait' runs here"):
        run(searching, base, wanted, {"resize-wait": {"count": 20}})


def test_for_another_machine_times_of_this_one_decide_nothing(
    tmp_path: Path, base: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, {20: (3.0, 0.01), 60: (0.5, 0.01)})
    wanted = [Candidate("small and slow here", (Resize(20),)), Candidate("fast here", (Resize(60),))]
    best, trials = run(make(tmp_path, base, foreign=True), base, wanted)
    assert best is trials[0]
    assert trials[1].rejected is None
