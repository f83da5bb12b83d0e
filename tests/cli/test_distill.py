"""``onnxslim distill``: what is written, what the report says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.cli import main
from tests.distillation.nets import noisy, rows, wide
from tests.models import run

COMMAND = ["distill", "student.onnx", "--teacher", "teacher.onnx", "--data", "data.npz", "-o", "out.onnx"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(ir.to_proto(noisy()), "student.onnx")
    onnx.save(ir.to_proto(wide()), "teacher.onnx")
    np.savez("data.npz", x=rows(80))
    return tmp_path


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    parsed = json.loads(capsys.readouterr().out)
    assert isinstance(parsed, dict)
    return parsed


def test_a_better_student_and_its_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--steps", "80", "--rate", "0.01", "--threads", "1"]
    assert main([*COMMAND, *more, "--json", "--report", "report.html"]) == 0
    report = found(capsys)
    assert report["schema"] == "onnxslim.distill/1"
    told = report["distillation"]
    assert told["steps"] == 80 and told["looks"][0]["step"] == 0 and told["best"] > 0
    assert report["metric"]["name"] == "agreement" and report["metric"]["teacher"] == 1.0
    assert report["metric"]["after"] >= report["metric"]["before"]
    page = Path("report.html").read_text()
    assert "Training" in page and "kl of l" in page
    assert not Path("out.onnx.partial").exists()
    [before], [after] = (run(onnx.load(f"{name}.onnx"), {"x": rows(5)}) for name in ("student", "out"))
    assert before.shape == after.shape and not np.array_equal(before, after)


def test_what_a_person_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--steps", "30", "--threads", "1", "--report", "report.md"]) == 0
    text = capsys.readouterr().out
    assert "kl of l" in text and "agreement" in text
    assert "kl of l" in Path("report.md").read_text()


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    assert main([*COMMAND, "--steps", "5", "--dry-run", "-q"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["distill", "student.onnx", "--data", "data.npz", "-o", "out.onnx"],
        ["distill", "student.onnx", "--teacher", "teacher.onnx", "-o", "out.onnx"],
        [*COMMAND, "--steps", "0"],
        [*COMMAND, "--time", "soon"],
        [*COMMAND, "--rate", "1.5"],
        [*COMMAND, "--batch-size", "-3"],
        [*COMMAND, "--optimizer", "magic"],
        [*COMMAND[:-1], "teacher.onnx"],
        [*COMMAND[:-1], "student.onnx"],
        [*COMMAND[:-2], "--resume"],
        [*COMMAND, "--providers", "nothing"],
        ["distill", "none.onnx", *COMMAND[2:]],
        [*COMMAND[:3], "data.npz", *COMMAND[4:]],
        [*COMMAND, "--metric", "beauty"],
        [*COMMAND, "--labels", "--steps", "5"],
    ],
)
def test_hostile_options_are_usage_errors(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(arguments) == 2
    text = capsys.readouterr()
    assert text.err and "Traceback" not in text.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_interrupted_run_is_not_lost_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.onnx.partial").write_bytes(b"nothing")
    assert main([*COMMAND, "--steps", "5"]) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert main([*COMMAND, "--steps", "5", "--resume"]) == 2
    assert "not an interrupted distillation" in capsys.readouterr().err
    assert Path("out.onnx.partial").read_bytes() == b"nothing"
    assert main([*COMMAND, "--steps", "5", "--force", "-q"]) == 0


def test_the_short_way_prunes_and_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "teacher.onnx", "--data", "data.npz", "--round", "1", "-o", "short.onnx", "--json"]
    assert main([*command, "--ratio", "0.4", "--distill", "1s", "--save-mask", "mask.json"]) == 0
    report = found(capsys)
    assert report["after"]["params"] < report["before"]["params"] and Path("mask.json").exists()
    assert report["distillation"]["looks"] and report["latency"]["ratio"] > 0
    assert report["metric"]["before"] == 1.0 and "student" in report["metric"]
    [output] = run(onnx.load("short.onnx"), {"x": rows(3)})
    assert output.shape == (3, 4)


def test_the_short_way_needs_something_to_learn_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "teacher.onnx", "-o", "short.onnx", "--ratio", "0.4", "--distill"]) == 2
    assert "nothing to learn on" in capsys.readouterr().err
    given = ["teacher.onnx", "--data", "data.npz", "-o", "short.onnx", "--distill", "1s"]
    assert main(["quantize", *given, "--integer-io"]) == 2
    assert main(["prune", *given, "--ratio", "0.4", "--distill", "soon"]) == 2
    assert not Path("short.onnx").exists()


def test_what_was_quantized_learns_or_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["teacher.onnx", "--data", "data.npz", "-o", "short.onnx", "--distill", "1s", "--json"]
    assert main(["quantize", *given, "--mode", "weight-only"]) == 0
    report = found(capsys)
    assert report["distillation"] or any("nothing was distilled" in note for note in report["notes"])
