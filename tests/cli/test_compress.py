"""``compress`` and ``quantize``: what is written when something pays, when nothing does, and when it must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim.cli import main
from tests.models import proto, run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model of one large layer, one of a single node, and data for both."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    dense = proto("g (float[n, 256] x) => (float[n, 256] y) { y = MatMul(x, w) }")
    weight = onnx.numpy_helper.from_array(rng.normal(size=(256, 256)).astype(np.float32), "w")
    dense.graph.initializer.append(weight)
    onnx.save(dense, "dense.onnx")
    onnx.save(proto("g (float[n, 256] x) => (float[n, 256] y) { y = Relu(x) }"), "relu.onnx")
    np.savez("feeds.npz", x=rng.normal(size=(24, 256)).astype(np.float32))
    return tmp_path


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    parsed = json.loads(capsys.readouterr().out)
    assert isinstance(parsed, dict)
    return parsed


def test_a_target_out_of_reach_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compress", "relu.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--target-bytes", "0.001x"]
    assert main([*arguments, "--json"]) == 4
    found = result(capsys)
    assert found["exit_code"] == 4 and "target" in found["error"]["what"]
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-drop", "many"],
        ["--target-latency", "fast"],
        ["--time", "0s"],
        ["--metric", "no_such:function"],
        ["--weights", "binary:9"],
        ["--threads", "1,none"],
        ["--threads", ""],
        ["--threads", "1,,2"],
        ["--min-sqnr", "-3"],
        ["--min-sqnr", "nan"],
        ["--min-sqnr", "inf"],
    ],
)
def test_bad_budgets_are_usage_errors(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", "relu.onnx", "-o", "out.onnx", "--data", "feeds.npz"]
    assert main([*command, *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert not Path("out.onnx").exists()


@pytest.mark.slow
def test_what_pays_in_bytes_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compress", "dense.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--objective", "bytes"]
    assert main([*arguments, "--max-drop", "0.01", "--json"]) == 0
    found = result(capsys)
    assert found["output"]["bytes"] <= 0.35 * found["input"]["bytes"]
    assert found["metric"]["after"] >= found["metric"]["before"] - 0.01
    assert found["latency"]["interval"][1] <= 1.02
    assert [trial["name"] for trial in found["tried"] if trial["kept"]]
    feed = {"x": np.load("feeds.npz")["x"]}
    [before], [after] = run(onnx.load("dense.onnx"), feed), run(onnx.load("out.onnx"), feed)
    assert np.square(before).sum() > 100 * np.square(before - after).sum()


@pytest.mark.slow
def test_quantize_takes_what_calibrate_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "dense.onnx", "--data", "feeds.npz", "-o", "cal.npz", "-q"]) == 0
    command = ["quantize", "dense.onnx", "-o", "out.onnx", "--calibration", "cal.npz", "--data", "feeds.npz"]
    assert main([*command, "--json"]) == 0
    assert result(capsys)["output"]["bytes"] < Path("dense.onnx").stat().st_size
    assert main(["quantize", "relu.onnx", "-o", "other.onnx", "--calibration", "cal.npz"]) == 2
    assert "another model" in capsys.readouterr().err


@pytest.mark.slow
def test_quantize_stores_weights_in_4_bits_when_allowed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", "dense.onnx", "--data", "feeds.npz", "--mode", "weight-only", "--json"]
    sizes = []
    for kind in ("int8", "int4"):
        assert main([*command, "--weights", kind, "-o", f"{kind}.onnx"]) == 0
        found = result(capsys)
        sizes.append(found["output"]["bytes"])
    assert sizes[1] < 0.65 * sizes[0] < 0.2 * Path("dense.onnx").stat().st_size
    assert "4 bits" in next(trial["name"] for trial in found["tried"] if trial["kept"])


@pytest.mark.slow
def test_quantize_stores_weights_as_signs_and_says_how(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", "dense.onnx", "--data", "feeds.npz", "--mode", "weight-only", "--json"]
    assert main([*command, "--weights", "binary", "--max-drop", "0.1", "-o", "out.onnx"]) == 0
    [kept] = [trial for trial in result(capsys)["tried"] if trial["kept"]]
    [weight] = kept["weights"]
    assert weight["weight"] == "w" and 1 <= weight["bases"] <= 4 and weight["bits"] < 4.5
    assert weight["bytes"] == pytest.approx(weight["bits"] * 256 * 256 / 8)
    assert Path("out.onnx").stat().st_size < 0.15 * Path("dense.onnx").stat().st_size


def test_modes_that_need_no_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "dense.onnx", "-o", "out.onnx", "--json"]) == 2
    error = result(capsys)["error"]
    assert "mode auto needs data" in error["what"] and "dynamic" in error["hint"]
    command = ["quantize", "dense.onnx", "-o", "out.onnx", "--mode", "dynamic", "--json"]
    assert main([*command, "--set", "quantize-dynamic.placement=all"]) == 0
    found = result(capsys)
    [trial] = found["tried"]
    assert trial["name"] == "dynamic int8" and any("random" in note for note in found["notes"])
    assert trial["bytes_ratio"] < 0.3


def test_a_type_of_activations_that_the_target_does_not_take(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", "dense.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--mode", "static"]
    assert main([*command, "--activations", "int16", "--json"]) == 2
    assert "int8, uint8" in result(capsys)["error"]["hint"]
    assert not Path("out.onnx").exists()


def test_random_indices_lie_in_their_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 95 rows: some of the feeds would ask for a later one if they were drawn below 100."""
    model = proto(
        "g (int32[n,1] x) => (float[n,1,64] y) { i = Cast<to: int = 7>(x) r = Gather(t, i) y = MatMul(r, w) }"
    )
    rng = np.random.default_rng(0)
    for name, rows in (("t", 95), ("w", 64)):
        array = rng.normal(size=(rows, 64)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, "words.onnx")
    assert (
        main(["quantize", "words.onnx", "--dry-run", "--data", "random", "--mode", "static", "--json"]) == 0
    )
    assert any("the data were random" in note for note in result(capsys)["notes"])
