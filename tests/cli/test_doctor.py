"""``onnxslim doctor``: what it finds of this machine, measures on it, and says of a broken installation."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onnxslim.cli import main
from onnxslim.runtime.errors import RemoteError, WorkerDied


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)


def test_the_worker_is_found_at_work(capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["onnxruntime"] == onnxruntime.__version__
    assert found["worker_process"] == "works"
    assert found["providers"]["CPUExecutionProvider"] == {
        "short": "cpu",
        "installed": True,
        "works": True,
        "remark": "",
    }
    assert set(found["providers"]) > set(onnxruntime.get_available_providers())
    assert len(found["integer_kernels"]) == 5 and "several threads" in found["not_measured"]
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "pip install onnxruntime-gpu" in out or found["providers"]["CUDAExecutionProvider"]["installed"]
    assert "Not measured here" in out and "no problem found" in out


def test_a_table_is_measured(
    folder: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two fusions and a few short trials: the file can be read and used, whatever the times were."""
    from onnxslim.measure.costs import measure
    from onnxslim.runtime.targets.load import load_target
    from onnxslim.runtime.targets.write import to_toml

    monkeypatch.setattr(measure, "_LEAST", 1)
    monkeypatch.setattr(measure, "_EPOCH_S", 0.001)
    target = load_target()
    short = replace(target, fusions=tuple(f for f in target.fusions if f.name in ("Conv", "Add")))
    Path("short.toml").write_text(to_toml(short), encoding="utf-8")
    command = ["doctor", "--measure", "--target", "short.toml", "--time", "100ms"]
    assert main([*command, "-o", "mine.toml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == "mine.toml" and [f["name"] for f in found["fusions"]] == ["Conv", "Add"]
    mine = load_target("mine.toml")
    assert mine.measured and [f.name for f in mine.fusions] == ["Conv", "Add"]
    assert found["fusions"][0]["float_cost"] and "one thread" in mine.machine
    assert main([*command, "-o", "mine.toml"]) == 2  # it exists
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "QLinearConv" in out and "are explained to" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "cuda"], "belong to --measure"),
        (["-o", "x.toml"], "belong to --measure"),
        (["--measure", "--target", "cuda"], "only the CPU"),
        (["--measure", "--target", "none.toml"], "no such target file"),
        (["--measure", "--time", "never"], "--time"),
        (["--measure", "-o", "nowhere/x.toml"], "folder of the output does not exist"),
    ],
)
def test_refused(
    folder: None, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.toml").exists()


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["doctor", "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 5 and "providers" not in found
    assert "onnxruntime cannot be imported" in found["problems"][0]
    assert main(["doctor"]) == 5
    assert "problem: onnxruntime" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [WorkerDied("it died", hint="a hint"), RemoteError("Traceback\nImportError: no libc")]
)
def test_with_a_broken_onnxruntime(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("onnxslim.runtime.providers.available", fail)
    assert main(["doctor", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["worker_process"] == "fails" and "integer kernels" in found["not_measured"]
    assert found["problems"][0].endswith(("it died", "ImportError: no libc"))


def test_with_a_provider_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("QNNExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr("onnxslim.runtime.providers.available", lambda: both)
    assert main(["doctor", "--json"]) == 0  # models do run here
    found = json.loads(capsys.readouterr().out)
    assert found["providers"]["QNNExecutionProvider"]["works"] is False
    assert "QNNExecutionProvider does not start" in found["problems"][0]
    assert "accelerators" in found["not_measured"]
