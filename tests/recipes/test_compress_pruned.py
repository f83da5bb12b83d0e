"""``compress`` with pruning: what wins, by whose reckoning, and what is said where nothing is gained.

Times are made up: those of a file are its share of the original's multiply-accumulates.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.calibration.data import open_feeds
from onnxslim.cli import main
from onnxslim.errors import BudgetError, CalibrationError, OptionError
from onnxslim.model.io import load
from onnxslim.recipes import learning as module
from onnxslim.recipes import search as search_module
from onnxslim.recipes.parts import split_data
from onnxslim.recipes.pipeline import Result
from onnxslim.recipes.pruning.widths import macs_for
from tests.distillation import nets
from tests.models import proto, run
from tests.recipes.pruning.nets import feeds, small_net

Time = Callable[[ir.Model], float]


def products(model: ir.Model) -> float:
    return float(macs_for(model, feeds(1)[0]) or 0)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Time], None]:
    """Lets a file take what a function says of it; by default, what it has of products."""

    def use(time: Time) -> None:
        def measure(a: Any, b: Any, *, threads: int, **_: Any) -> Any:
            ratio = time(load(b)) / time(load(a))
            verdict = "slower" if ratio > 1.02 else "faster" if ratio < 0.98 else "equal"
            interval = (ratio - 0.001, ratio + 0.001)
            found = {"ratio": ratio, "interval": interval, "verdict": verdict}
            summary = {"a": {"p50": 1.0}, "b": {"p50": ratio}}
            more: dict[str, Any] = {"seconds_b": ratio, "reliable": True, "threads": threads}
            return SimpleNamespace(**found, **more, to_dict=lambda: found | summary)

        monkeypatch.setattr(search_module, "measure_latency", measure)

    use(products)
    monkeypatch.setattr("onnxslim.recipes.candidates._fastest", lambda model, first, *more: first)
    return use


def compress(**given: Any) -> Result:
    return onnxslim.compress(small_net(), feeds(60), **{"prune": True, **given})


def tried(result: Result) -> dict[str, str]:
    return {trial["name"]: trial["reason"] for trial in result.report.tried}


def kept(result: Result) -> str:
    [name] = [trial["name"] for trial in result.report.tried if trial["kept"]]
    return str(name)


def test_everything_said_is_of_the_original_against_the_final_file(tmp_path: Path) -> None:
    onnx.save(ir.to_proto(small_net()), tmp_path / "net.onnx")
    result = onnxslim.compress(tmp_path / "net.onnx", feeds(60), prune=True)
    report, file = result.report, result.save(tmp_path / "out.onnx")
    original, found = load(tmp_path / "net.onnx"), load(tmp_path / "out.onnx")
    assert report.before["macs"] == products(original) and report.after["macs"] == products(found)
    assert (
        report.latency is not None and report.latency["ratio"] == products(found) / products(original) < 0.6
    )
    [row] = [trial for trial in report.tried if trial["kept"]]
    assert row["bytes_ratio"] == pytest.approx(file.bytes / (tmp_path / "net.onnx").stat().st_size, abs=0.01)
    assert "prune-channels" in [record.name for record in report.passes if record.modified]
    assert report.verification is not None and row["name"].startswith("pruned to 0.")
    noise = [
        np.square(run(ir.to_proto(original), feed)[0] - run(ir.to_proto(found), feed)[0]).sum()
        / np.square(run(ir.to_proto(original), feed)[0]).sum()
        for feed in feeds(60)
    ]
    assert 10 * np.log10(1 / np.mean(noise)) == pytest.approx(row["sqnr_db"], abs=3)


@pytest.mark.parametrize("max_drop", [0.05, 0.001, 1e-5])
def test_the_budget_holds_on_what_selects(max_drop: float) -> None:
    result = compress(max_drop=max_drop)
    model = small_net()
    held_out = split_data(open_feeds(feeds(60), model), None, model).held_out
    pairs = [(run(ir.to_proto(model), feed)[0], run(result.to_proto(), feed)[0]) for feed in held_out]
    cosines = [np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    assert np.mean(cosines) >= 1 - max_drop


def test_the_same_seed_makes_the_same_file() -> None:
    first, second = compress(seed=3), compress(seed=3)
    assert kept(first) == kept(second)
    assert first.to_proto().SerializeToString() == second.to_proto().SerializeToString()


@pytest.mark.parametrize("objective", ["both", "latency", "bytes"])
def test_it_is_never_worse_than_without(objective: Any, clock: Callable[[Time], None]) -> None:
    """A machine that dislikes narrow layers: then the result is what it would be without pruning."""
    clock(lambda model: products(model) ** -0.1)
    result, plain = compress(objective=objective), compress(objective=objective, prune=False)
    [row], [other] = ([t for t in found.report.tried if t["kept"]] for found in (result, plain))
    cost = {"latency": ("ratio",), "bytes": ("bytes_ratio",)}.get(objective, ("ratio", "bytes_ratio"))
    assert np.prod([row[key] for key in cost]) <= np.prod([other[key] for key in cost])
    if objective == "latency":
        assert result.to_proto() == plain.to_proto()
        assert any("slower" in reason for name, reason in tried(result).items() if "pruned" in name)
        assert any("nothing that was pruned is in the result" in note for note in result.report.notes)


def test_what_pays_less_is_said_to(clock: Callable[[Time], None]) -> None:
    """Time that only codes of 8 bits save: the narrow ones of them have no more to give by it."""
    clock(
        lambda model: (
            1.0
            - 0.5
            * any(node.op_type == "QuantizeLinear" for node in model.graph)
            * (products(model) == products(small_net()))
        )
    )
    result = compress(objective="latency")
    assert "pruned" not in kept(result)
    assert any(note.startswith("pruning did not pay: pruned to") for note in result.report.notes)


def test_what_cannot_be_pruned_is_compressed_all_the_same(clock: Callable[[Time], None]) -> None:
    clock(lambda model: 1.0)
    model = proto("g (float[n,64] x) => (float[n,64] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }")
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (64, 8)), ("w2", (8, 64))):
        weight = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    data = {"x": rng.normal(size=(40, 64)).astype(np.float32)}
    pruned = onnxslim.compress(model, data, prune=True, objective="bytes")
    plain = onnxslim.compress(model, data, objective="bytes")
    assert pruned.to_proto() == plain.to_proto() and pruned.unchanged is None
    assert any("with all that may go" in note for note in pruned.report.notes)
    assert any("its 8 channels are no more than" in entry.reason for entry in pruned.report.declined)


METRIC = """
import onnx

def score(path):
    shapes = [tuple(tensor.dims) for tensor in onnx.load(path).graph.initializer]
    return 1.0 if any(shape[:2] == (16, 2) for shape in shapes) else 0.5
"""


def test_pruning_that_fails_the_test_leaves_what_was_not_pruned(tmp_path: Path) -> None:
    """A task that only the width of the first layer solves, which selection knows nothing of."""
    (tmp_path / "wide.py").write_text(METRIC)
    result = compress(metric=f"{tmp_path / 'wide.py'}:score")
    assert result.report.metric is not None and result.report.metric["after"] == 1.0
    assert "pruned" not in kept(result)
    assert [name for name, reason in tried(result).items() if "scored 0.5000 on the test data" in reason]
    assert any("the best that was not pruned was scored in its place" in n for n in result.report.notes)


def test_targets_that_only_pruning_meets() -> None:
    result = compress(target_latency="0.6x")
    assert "pruned" in kept(result)
    with pytest.raises(BudgetError, match="misses the target latency"):
        compress(target_latency="0.6x", prune=False)


def test_time_that_is_up_is_said_to_be() -> None:
    result = compress(time="1ms", distill="1s")
    left = [name for name, reason in tried(result).items() if "--time was used up" in reason]
    assert any("pruned" in name for name in left)
    assert not [trial for trial in result.report.tried if trial["kept"] and "pruned" in trial["name"]]


def test_what_learned_goes_deeper_and_the_report_says_how(
    clock: Callable[[Time], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained for so many steps rather than for so long."""

    def learn(*given: Any) -> Any:
        *models, request, progress = given
        settings = replace(request.settings, steps=600, rate=0.01)
        return module.learn(*models, replace(request, settings=settings), progress)

    monkeypatch.setattr("onnxslim.recipes.depths.learn", learn)
    clock(lambda model: float(macs_for(model, nets.feeds(1)[0]) or 0))
    given: dict[str, Any] = {"prune": True, "max_drop": 0.1, "objective": "latency"}
    model, data = nets.net(64, scale=0.3), nets.feeds(300)
    untaught = onnxslim.compress(model, data, **given)
    taught = onnxslim.compress(model, data, distill="1s", **given)
    assert "distilled" in kept(taught) and untaught.report.distillation is None
    assert taught.report.after["macs"] < untaught.report.after["macs"] < untaught.report.before["macs"]
    told = taught.report.distillation
    assert told is not None and told["steps"] == 600 and told["best"] > 0 and told["trained"]


def test_there_must_be_something_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="nothing to distill"):
        compress(prune=False, distill="1s")
    onnx.save(ir.to_proto(small_net()), tmp_path / "net.onnx")
    np.savez(tmp_path / "feeds.npz", x=np.concatenate([feed["x"] for feed in feeds(40)]))
    out = tmp_path / "out.onnx"
    command = ["compress", str(tmp_path / "net.onnx"), "-o", str(out), "--data", str(tmp_path / "feeds.npz")]
    assert main([*command, "--distill", "1min"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "--prune" in lines[-1]
    assert main([*command, "--prune", "--distill", "soon"]) == 2
    assert "--distill" in capsys.readouterr().err
    assert not out.exists()


def test_one_input_teaches_nothing() -> None:
    with pytest.raises(CalibrationError, match="nothing can be learned"):
        onnxslim.compress(small_net(), feeds(2), prune=True, distill="1s", test=feeds(4))


def test_a_dry_run_tells_all_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(ir.to_proto(small_net()), tmp_path / "net.onnx")
    np.savez(tmp_path / "feeds.npz", x=np.concatenate([feed["x"] for feed in feeds(60)]))
    command = ["compress", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "feeds.npz"), "--prune"]
    assert main([*command, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] is None and found["after"]["macs"] < found["before"]["macs"]
    [row] = [trial for trial in found["tried"] if trial["kept"]]
    assert row["name"].startswith("pruned to")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["feeds.npz", "net.onnx"]
