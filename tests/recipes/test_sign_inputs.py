"""Binary activations: only where the budget has room for them, and what the report says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import onnxslim
from onnxslim.cli import main
from onnxslim.errors import OptionError
from onnxslim.model.io import load, save
from onnxslim.recipes import search as search_module
from onnxslim.recipes.budget import Drop
from onnxslim.recipes.quality import Judge
from onnxslim.recipes.search import Search
from onnxslim.recipes.sign_inputs import SignInputs, sign_inputs
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.client import open_worker
from tests.models import proto, run

# the second product reads what is nearly a sign, the third a mixture of it that is not
TEXT = """g (float[n,64] x) => (float[n,64] y)
    { a = MatMul(x, v) k = Mul(a, c) t = Tanh(k) b = MatMul(t, w) m = Add(b, x) y = MatMul(m, u) }"""


def network() -> onnx.ModelProto:
    source, random = proto(TEXT), np.random.default_rng(0)
    weights = {name: random.normal(size=(64, 64)) / 8 for name in "vwu"} | {"c": np.array(30.0)}
    for name, array in weights.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return source


def feeds(count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(8, 64)).astype(np.float32)} for _ in range(count)]


def timed(monkeypatch: pytest.MonkeyPatch, slow_from: int = 99) -> None:
    """Every model takes the same time; those with many signs are slower."""

    def measure(a: Any, b: Any, *, threads: int, **more: Any) -> Any:
        ratio = 1.2 if _signs(onnx.load(b)) >= slow_from else 1.0
        ends = (ratio - 0.01, ratio + 0.01)
        verdict = "slower" if ratio > 1 else "equal"
        found = {"ratio": ratio, "interval": ends, "verdict": verdict, "seconds_b": 1.0, "reliable": True}
        return SimpleNamespace(**found, threads=threads, to_dict=dict)

    monkeypatch.setattr(search_module, "measure_latency", measure)
    monkeypatch.setattr(
        "onnxslim.recipes.contest.latency_fields", lambda measured, name: {"ratio": measured.ratio}
    )


def _signs(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Where" for node in model.graph.node)


def chosen(tmp_path: Path, drop: float, min_sqnr_db: float = 0.0) -> SignInputs:
    model = load(network())
    folder = tmp_path / "tried"
    folder.mkdir()
    original = replace(save(model, tmp_path / "original.onnx"), bytes=10**6)  # the winner was smaller
    with open_worker() as worker:
        judge = Judge(worker, model, feeds(16), None, Drop(drop, relative=False)).stricter(min_sqnr_db)
        search = Search(original, judge, folder, feeds(2))
        return sign_inputs(model, feeds(32, 2), search, worker, feeds(16))


def test_the_product_that_bears_it_reads_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch)
    found = chosen(tmp_path, 0.05, 12.0)
    assert found.trial is not None and found.trial.score is not None
    assert found.notes == ("binary activations: 1 of 3 products read signs: b",)
    assert {each.node for each in found.outcome.declined} == {"a", "y"}
    assert all("dB alone" in each.reason for each in found.outcome.declined)
    model = found.outcome.model
    assert [node.op_type for node in model.graph].count("Where") == 1
    [one], [other] = run(network(), feeds(1, 9)[0]), run(model, feeds(1, 9)[0])
    assert 12 < sqnr_db(one, other) < 60, "nearly the same, and not the same"
    assert found.trial.score.sqnr_db == pytest.approx(sqnr_db(*all_outputs(model)), abs=0.1)


def all_outputs(model: Any) -> tuple[np.ndarray, np.ndarray]:
    sides = ([run(each, feed)[0] for feed in feeds(16)] for each in (network(), model))
    one, other = (np.concatenate(side) for side in sides)
    return one, other


def test_where_none_bears_it_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch)
    found = chosen(tmp_path, 1e-6)
    assert found.trial is None and len(found.outcome.declined) == 3
    assert "none of 3 products reads signs; the best alone leaves" in found.notes[0]


def test_what_takes_time_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, slow_from=2)
    monkeypatch.setattr("onnxslim.recipes.quality.MIN_SQNR_DB", -99.0)
    found = chosen(tmp_path, 2.0)
    assert found.trial is not None and "1 of 3 products" in found.notes[0]
    assert sum("slower" in each.reason for each in found.outcome.declined) == 2
    timed(monkeypatch, slow_from=0)
    (tmp_path / "second").mkdir()
    none = chosen(tmp_path / "second", 2.0)
    assert none.trial is None and "slower" in none.notes[0]


def test_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed(monkeypatch)
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    onnx.save(network(), source)
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed in feeds(24)]))
    options = ["--data", str(tmp_path / "data.npz"), "--batch", "8", "--activations", "binary"]
    enough = ["--weights", "binary", "--max-drop", "0.1", "--json"]
    assert main(["quantize", source, "-o", target, *options, *enough]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["metric"]["after"] >= found["metric"]["before"] - 0.1
    assert any("of 3 products read signs" in note for note in found["notes"])
    names = [each["name"] for each in found["passes"] if each["modified"]]
    assert names[-1] == "binarize-activations" and _signs(onnx.load(target)) >= 1
    assert [each["kept"] for each in found["tried"]].count(True) == 1 and found["tried"][-1]["kept"]
    for wrong in ((), ("--weights", "int4"), ("--weights", "binary", "--mode", "static")):
        assert main(["quantize", source, "-o", str(tmp_path / "no.onnx"), *options, *wrong]) == 2
        assert "binary activations go with binary weights" in capsys.readouterr().err
        assert not (tmp_path / "no.onnx").exists()


def test_the_test_data_have_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that signs spoil, and nothing else: the winner stays what it was."""
    timed(monkeypatch)
    options: dict[str, Any] = {"weights": "binary", "activations": "binary"}
    result = onnxslim.quantize(network(), feeds(24), metric=f"{__name__}:spoilt", max_drop=0.3, **options)
    assert result.report.metric is not None and result.report.metric["after"] == 1.0
    assert not _signs(result.to_proto())
    assert any("none, for the model scored 0.0000 on the test data" in note for note in result.report.notes)
    with pytest.raises(OptionError, match="binary activations"):
        onnxslim.quantize(network(), mode="weight-only", **options)


def spoilt(path: str) -> float:
    return float(_signs(onnx.load(path)) == 0)
