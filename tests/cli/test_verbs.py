"""The verbs end to end, as a user types them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim.cli import main
from tests.models import proto, run

TEXT = """
g (float[n, 4] x) => (float[n, 3] y)
<float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] b = {1, 2, 3}> {
    same = Identity(x)
    unused = Neg(x)
    two = Add(b, b)
    product = MatMul(same, w)
    y = Add(product, two)
}
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in an otherwise empty working folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(proto(TEXT), "in.onnx")
    return tmp_path / "in.onnx"


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out, err = capsys.readouterr()
    assert not err, err
    parsed = json.loads(out)
    assert isinstance(parsed, dict)
    return parsed


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_simplify_writes_a_smaller_equal_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = model.read_bytes()
    assert main(["simplify", "in.onnx", "-o", "out.onnx", "--json"]) == 0
    found = document(capsys)
    assert set(found) >= {"schema", "input", "output", "passes", "declined", "metric", "latency", "exit_code"}
    assert found["schema"] == "onnxslim.simplify/1" and found["exit_code"] == 0
    for side, path in (("input", "in.onnx"), ("output", "out.onnx")):
        assert found[side]["path"] == path
        assert found[side]["sha256"] == sha256(path)
        assert found[side]["bytes"] == Path(path).stat().st_size
        assert found[side]["nodes"] == len(onnx.load(path).graph.node)
    assert found["output"]["nodes"] <= 3 and found["input"]["nodes"] == 5
    assert found["verification"]["ok"]
    assert model.read_bytes() == before
    feed = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    np.testing.assert_array_equal(run(onnx.load("out.onnx"), feed)[0], run(onnx.load("in.onnx"), feed)[0])


def test_the_bare_form_is_simplify(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.onnx", "out.onnx"]) == 0
    out, err = capsys.readouterr()
    assert "nodes" in out and "verified" in out and not err
    assert main(["--dim", "n=1", "in.onnx", "fixed.onnx", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert onnx.load("fixed.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_an_existing_file_needs_force(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.onnx").write_text("precious")
    assert main(["in.onnx", "out.onnx"]) == 2
    assert Path("out.onnx").read_text() == "precious"
    assert "--force" in capsys.readouterr().err
    assert main(["in.onnx", "out.onnx", "--force", "-q"]) == 0
    onnx.load("out.onnx")
    assert main(["in.onnx", "in.onnx", "--force"]) == 2
    assert "the input itself" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simplify", "in.onnx", "--dry-run", "--report", "report.md", "--json"]) == 0
    found = document(capsys)
    assert found["output"] is None and found["after"]["nodes"] <= 3
    assert names() == ["in.onnx"]


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.json"])
def test_the_report_can_be_kept(model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simplify", "in.onnx", "-o", "out.onnx", "--report", name]) == 0
    text = Path(name).read_text()
    assert sha256("out.onnx") in text and sha256("in.onnx") in text
    if name.endswith(".json"):
        assert json.loads(text)["schema"] == "onnxslim.simplify/1"
    assert main(["simplify", "in.onnx", "-o", "other.onnx", "--report", name]) == 2
    assert main(["simplify", "in.onnx", "-o", "same.md", "--report", "./same.md"]) == 2
    assert not Path("other.onnx").exists() and not Path("same.md").exists()


def test_models_travel_through_pipes(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim", "simplify", "-", "-o", "-"],
        input=model.read_bytes(),
        capture_output=True,
        check=True,
    )
    assert len(onnx.load_model_from_string(done.stdout).graph.node) <= 3
    assert b"verified" in done.stderr
    assert names() == ["in.onnx"]


@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        (b"", []),
        (b"no protobuf at all", []),
        (None, ["--dim", "nothing=2"]),
        (None, ["--input-shape", "nothing:2"]),
        (None, ["--set", "no-such-pass.x=1"]),
        (None, ["--set", "fold-constants.no_such_option=1"]),
    ],
)
def test_bad_input_is_exit_code_2_and_writes_nothing(
    model: Path, content: bytes | None, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        model.write_bytes(content)
    assert main(["in.onnx", "out.onnx", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 3
    assert names() == ["in.onnx"]


def test_a_missing_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["inspect", "no.onnx"], ["bench", "no.onnx"], ["compare", "in.onnx", "no.onnx"]):
        assert main(arguments) == 2, arguments
        assert "no.onnx" in capsys.readouterr().err


def test_inspect(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "in.onnx", "--json"]) == 0
    found = document(capsys)
    assert found["input"]["sha256"] == sha256("in.onnx")
    assert found["ops"] == {"Add": 2, "Identity": 1, "Neg": 1, "MatMul": 1}
    assert found["inputs"] == [{"name": "x", "dtype": "float", "shape": ["n", 4]}]
    assert found["params"] == 15 and found["macs"] == 12
    assert found["activations"]["peak"] == 3 * 16  # x, same and unused; two is computed from a weight
    assert found["quantization"] == found["quantized"]["kind"] == "none"
    assert "diff" not in found
    assert main(["inspect", "in.onnx"]) == 0
    assert "MatMul" in capsys.readouterr().out


def test_inspect_asks_for_open_dimensions(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(proto("g (float[n, k] x) => (float[n, k] y) { y = Relu(x) }"), "open.onnx")
    assert main(["inspect", "open.onnx"]) == 0
    assert "not known, open dimensions: k" in capsys.readouterr().out
    assert main(["inspect", "open.onnx", "--dim", "k=5", "--json"]) == 0
    assert document(capsys)["activations"]["peak"] == 40


def test_inspect_shows_what_changed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simplify", "in.onnx", "-o", "out.onnx", "-q"]) == 0
    assert main(["inspect", "in.onnx", "--diff", "out.onnx", "--json"]) == 0
    changed = document(capsys)["diff"]
    assert changed["other"]["sha256"] == sha256("out.onnx")
    assert changed["sizes"]["nodes"] == {"before": 5, "after": 2}
    assert changed["ops"]["Identity"] == {"before": 1, "after": 0}
    assert changed["inputs"] == changed["outputs"] == changed["opsets"] == {}
    assert changed["removed"]["count"] == 1 and changed["added"]["count"] == 1
    assert main(["inspect", "in.onnx", "--diff", "out.onnx"]) == 0
    out = capsys.readouterr().out
    assert "Identity" in out and "Tensors removed" in out and "not compared" in out
    assert main(["inspect", "-", "--diff", "-"]) == 2
    assert main(["inspect", "in.onnx", "--diff", "no.onnx"]) == 2
    assert "no.onnx" in capsys.readouterr().err


def test_compare_tells_equal_from_different(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(proto(TEXT.replace("two = Add(b, b)", "two = Sub(b, b)")), "other.onnx")
    assert main(["compare", "in.onnx", "in.onnx", "--promise", "exact", "--json"]) == 0
    found = document(capsys)
    assert found["ok"] and found["outputs"][0]["bit_equal"]
    np.savez("feeds.npz", x=np.ones((3, 4), np.float32))
    assert main(["compare", "in.onnx", "other.onnx", "--data", "feeds.npz", "--json"]) == 3
    found = document(capsys)
    assert found["exit_code"] == 3 and not found["ok"]
    assert found["outputs"][0]["max_abs_diff"] == 6.0


def test_compare_shows_where_layers_part(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(proto(TEXT.replace("two = Add(b, b)", "two = Sub(b, b)")), "other.onnx")
    assert main(["compare", "in.onnx", "other.onnx", "--layers", "--json"]) == 3
    layers = {layer["value"]: layer for layer in document(capsys)["layers"]}
    assert list(layers) == ["same", "unused", "product", "y"]
    assert layers["product"]["sqnr_db"] == "inf" and layers["y"]["op"] == "Add"
    assert layers["y"]["own_db"] == layers["y"]["sqnr_db"] < 60
    assert main(["compare", "in.onnx", "other.onnx", "--layers"]) == 3
    shown = capsys.readouterr().out
    assert "Layers" in shown and "born here" in shown and "equal" in shown


def test_bench_gives_a_verdict_and_an_interval(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "in.onnx", "in.onnx", "--budget", "1s", "--json"]) == 0
    found = document(capsys)
    assert found["verdict"] in ("faster", "slower", "equal", "inconclusive")
    low, high = found["interval"]
    assert 0 < low <= found["ratio"] <= high


def test_run_follows_a_recipe(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.toml").write_text('[[pass]]\nname = "remove-dead-code"\n')
    assert main(["run", "recipe.toml", "in.onnx", "-o", "out.onnx", "--json"]) == 0
    found = document(capsys)
    assert [record["name"] for record in found["passes"]] == ["remove-dead-code"]
    assert [node.op_type for node in onnx.load("out.onnx").graph.node] == ["Identity", "Add", "MatMul", "Add"]
    Path("recipe.toml").write_text('[[pass]]\nname = "remove-dead-cod"\n')
    assert main(["run", "recipe.toml", "in.onnx", "-o", "out2.onnx"]) == 2
    assert "did you mean remove-dead-code" in capsys.readouterr().err


def test_calibrate_keeps_ranges(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onnxslim.calibration.store import Calibration

    np.savez("feeds.npz", x=np.arange(32, dtype=np.float32).reshape(8, 4))
    assert main(["calibrate", "in.onnx", "--data", "feeds.npz", "-o", "cal.npz", "--json"]) == 0
    assert document(capsys)["samples"] == 8
    assert Calibration.load("cal.npz").range("x") == (0.0, 31.0)
    assert main(["calibrate", "in.onnx", "--data", "feeds.npz", "-o", "cal.npz"]) == 2


def test_names_that_the_terminal_cannot_show(model: Path) -> None:
    onnx.save(proto("g (float[1] x) => (float[1] y) { y = Neg(x) }"), "odd.onnx")
    odd = onnx.load("odd.onnx")
    odd.graph.input[0].name = odd.graph.node[0].input[0] = "\u00e9\u4e2d\x1b[31m"
    onnx.save(odd, "odd.onnx")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "onnxslim", "inspect", "odd.onnx"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode in (0, 2) and b"\x1b" not in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr


def test_a_full_stdout_is_an_error_of_three_lines(model: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with full.open("wb") as stdout:
        command = [sys.executable, "-m", "onnxslim", "inspect", "in.onnx"]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing_behind(model: Path, number: int, code: int) -> None:
    temporary = model.parent / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "onnxslim", "bench", "in.onnx", "--budget", "60s"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True) as child:
        deadline = time.monotonic() + 30
        while not _children(child.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = _children(child.pid)
        child.send_signal(number)
        _, err = child.communicate(timeout=30)
    assert child.returncode == code
    assert b"Traceback" not in err
    assert workers and all(_ends(pid) for pid in workers)
    # onnxruntime keeps a file of its own there, with the number of its session
    assert [path for path in temporary.iterdir() if path.name != ".ses"] == []


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("needs /proc")
    return [int(child) for child in path.read_text().split()]


def _ends(pid: int) -> bool:
    """Whether a process is gone, or goes soon: one that was just being started ends when its pipe closes."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
