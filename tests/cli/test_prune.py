"""``prune``: what is written, what the report says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.cli import main
from tests.models import run
from tests.recipes.pruning.nets import feeds, small_net


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(ir.to_proto(small_net()), "net.onnx")
    np.savez("feeds.npz", x=np.concatenate([feed["x"] for feed in feeds(40)]))
    return tmp_path


COMMAND = ["prune", "net.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--round", "1"]


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    parsed = json.loads(capsys.readouterr().out)
    assert isinstance(parsed, dict)
    return parsed


def test_a_smaller_model_its_mask_and_its_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--target-macs", "0.6x", "--save-mask", "mask.json", "--report", "report.html", "--json"]
    assert main([*COMMAND, *more]) == 0
    report = found(capsys)
    assert report["schema"] == "onnxslim.prune/1"
    assert 0 < report["after"]["macs"] <= 0.6 * report["before"]["macs"]
    assert report["latency"]["interval"] and report["metric"]["name"] == "agreement"
    assert Path("report.html").stat().st_size > 1000
    [output] = run(onnx.load("out.onnx"), feeds(1)[0])
    assert output.shape == (1, 5)
    mask = json.loads(Path("mask.json").read_text())
    assert mask["schema"] == "onnxslim.mask/1" and any(mask["remove"].values())
    again = ["prune", "net.onnx", "-o", "again.onnx", "--data", "feeds.npz", "--mask", "mask.json", "-q"]
    assert main(again) == 0
    shapes = [
        {tensor.name: tuple(tensor.dims) for tensor in onnx.load(name).graph.initializer}
        for name in ("out.onnx", "again.onnx")
    ]
    assert sorted(shapes[0].values()) == sorted(shapes[1].values())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--ratio", "0.3", "--target-macs", "0.5x"],
        ["--ratio", "1.5"],
        ["--target-macs", "fast"],
        ["--criterion", "l3", "--ratio", "0.5"],
        ["--ratio-of", "w1"],
        ["--granularity", "weight"],
        ["--mask", "nowhere.json"],
        ["--ratio", "0.3", "--save-mask", "net.onnx"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_writes_nothing(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not Path("out.onnx").exists()


def test_a_target_out_of_reach_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--target-params", "0.001x", "--save-mask", "mask.json"]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert not Path("out.onnx").exists() and not Path("mask.json").exists()


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    assert main([*COMMAND, "--ratio", "0.3", "--save-mask", "mask.json", "--dry-run", "-q"]) == 0
    assert {path.name for path in folder.iterdir()} == {"net.onnx", "feeds.npz"}
