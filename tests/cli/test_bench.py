"""``onnxslim bench`` as a user types it: every kind of model, sweeps, gates, reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim.cli import main
from tests.models import proto

FAST = ["--budget", "0.3s"]
DYNAMIC = "g (float[n, 4] x) => (float[n, 4] y) { y = Neg(x) }"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(text: str, name: str = "a.onnx") -> str:
    onnx.save(proto(text), name)
    return name


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    parsed = json.loads(capsys.readouterr().out)
    assert isinstance(parsed, dict)
    return parsed


def external(name: str) -> str:
    source = proto("g (float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, w) }")
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    onnx.save(source, name, save_as_external_data=True, location="w.data", size_threshold=0)
    return name


KINDS = {
    "dynamic": DYNAMIC,
    "tokens": """g (int64[b, t] x) => (float[b, t, 2] y) <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
        y = Gather(w, x) }""",
    "state": "g (float[1, 4] x, float[1, 4] h) => (float[1, 4] y, float[1, 4] k) { y = Add(x, h) k = Neg(h)}",
    "string": "g (string[n] x) => (string[n] y) { y = Identity(x) }",
    "external": "",
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_data_are_needed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    a = external("a.onnx") if kind == "external" else save(KINDS[kind])
    assert main(["bench", a, a, *FAST, "--profile", "--json"]) == 0
    found = document(capsys)
    assert found["schema"] == "onnxslim.bench/1" and found["verdict"] in (
        "equal",
        "inconclusive",
        "faster",
        "slower",
    )
    assert found["input"]["path"] == a and found["output"]["sha256"] == found["input"]["sha256"]
    assert found["footprint"]["after"]["session_s"] > 0
    assert found["profile"]["joined"][0]["before"]["op"] == found["profile"]["joined"][0]["after"]["op"]
    assert found["verification"]["outputs"][0]["bit_equal"]
    assert any("random" in note for note in found["notes"])
    assert len(found["latency"]["raw"]["wall_ns"]) == found["latency"]["epochs"]


def test_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", save(DYNAMIC), *FAST]) == 0
    out = capsys.readouterr().out
    assert "p99" in out and "session creation" in out and "faster" not in out
    assert main(["bench", "a.onnx", *FAST, "--json"]) == 0
    found = document(capsys)
    assert found["verdict"] is None and found["output"] is None and found["latency"]["after"] is None


def test_a_sweep_measures_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    save(DYNAMIC)
    argv = [
        "bench",
        "a.onnx",
        "a.onnx",
        "--dim",
        "n=1,8",
        "--threads",
        "1,2",
        "--streams",
        "1,2",
        *FAST,
        "--json",
    ]
    assert main(argv) == 0
    found = document(capsys)
    names = [scenario["name"] for scenario in found["scenarios"]]
    assert names == ["1 thread, n=1", "2 threads, n=1", "1 thread, n=8", "2 threads, n=8"]
    assert found["latency"] == found["scenarios"][0]
    assert [row["streams"] for row in found["throughput"]] == [1, 2]
    assert all(row["before"] > 0 and row["after"] > 0 for row in found["throughput"])
    assert not any("guessed" in note for note in found["notes"])


def test_gates_decide_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    save(DYNAMIC)
    save("g (float[n, 4] x) => (float[n, 4] y) { z = Neg(x) u = Neg(z) y = Neg(u) }", "b.onnx")
    argv = ["bench", "a.onnx", "b.onnx", *FAST, "--json", "--report", "r.json"]
    assert main([*argv, "--fail-if", "bytes>+0", "--fail-if", "drop>1%"]) == 4
    found = document(capsys)
    assert found["exit_code"] == 4
    assert [gate["verdict"] for gate in found["gates"]] == ["broken", "met"]
    kept = json.loads(Path("r.json").read_text())
    assert kept["exit_code"] == 4 and kept["verdict"] == found["verdict"]
    assert main([*argv, "--force", "--fail-if", "bytes>500%"]) == 0


def test_labels_and_a_metric(capsys: pytest.CaptureFixture[str]) -> None:
    save("g (float[n, 3] x) => (float[n, 3] y) { y = Softmax(x) }")
    save("g (float[n, 3] x) => (float[n, 3] y) { z = Neg(x) y = Softmax(z) }", "b.onnx")
    x = np.eye(3, dtype=np.float32).repeat(4, 0)
    np.savez("d.npz", x=x, __labels__=x.argmax(1))
    argv = ["bench", "a.onnx", "b.onnx", "--data", "d.npz", *FAST, "--json"]
    assert main([*argv, "--metric", "top1", "--fail-if", "drop>0.5"]) == 4
    found = document(capsys)
    assert found["metric"]["before"] == 1.0 and found["metric"]["after"] == 0.0 and found["metric"]["n"] == 12
    assert not any("random" in note for note in found["notes"])
    assert main(argv) == 0
    assert document(capsys)["metric"]["name"] == "agreement"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--providers", "cuda"], 5, "pip install onnxruntime-gpu"),
        (["--providers", "cudda"], 2, "no provider"),
        (["--cuda-graph"], 2, "--providers cuda"),
        (["--threads", "0"], 2, "1,2,4"),
        (["--threads", "two"], 2, "1,2,4"),
        (["--dim", "n"], 2, "batch=1,8,32"),
        (["--dim", "m=2"], 2, "no symbolic dimension"),
        (["--input-shape", "x:3,5"], 2, "cannot have the shape"),
        (["--streams", "-1"], 2, "1,2,4"),
        (["--budget", "soon"], 2, "--budget"),
        (["--fail-if", "slower"], 2, "slower>5%"),
        (["--metric", "nothing"], 2, "no metric"),
        (["--metric", "top1"], 2, "labels"),
        (["--report", "r.pdf"], 2, "reports end in"),
        (["--report", "a.onnx"], 2, "reports end in"),
        (["--report", "there.md"], 2, "--force"),
        (["--data", "random", "--dim", "n=2"], 2, "either data"),
    ],
)
def test_bad_input(argv: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    save(DYNAMIC)
    Path("there.md").write_text("precious")
    before = sorted(Path().iterdir())
    assert main(["bench", "a.onnx", "a.onnx", *FAST, *argv]) == code
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 3 and said in err, err
    assert sorted(Path().iterdir()) == before and Path("there.md").read_text() == "precious"


def test_gates_need_two_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", save(DYNAMIC), "--fail-if", "bytes>+0", *FAST]) == 2
    assert "second model" in capsys.readouterr().err


def test_markdown_for_a_pull_request() -> None:
    save(DYNAMIC)
    assert main(["bench", "a.onnx", "a.onnx", *FAST, "--report", "r.md", "-q"]) == 0
    text = Path("r.md").read_text()
    assert text.startswith("# onnxslim bench") and "Neg" in text and "p99" in text
