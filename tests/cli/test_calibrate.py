"""``onnxslim calibrate`` and what ``inspect`` shows of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.cli import main
from tests.calibration.reference import CONV, images, same_bits
from tests.models import proto

DATA = images(40)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(proto(CONV), tmp_path / "in.onnx")
    np.savez(tmp_path / "feeds.npz", x=DATA)
    np.savez(tmp_path / "more.npz", x=DATA[:8] * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main(["calibrate", "in.onnx", *arguments])


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_options_that_change_no_bit(folder: Path) -> None:
    plain = calibrate("in.onnx", {"x": DATA}, second_moments=["r"])
    options = ["--data", "feeds.npz", "--second-moments", "r", "--force", "-q"]
    for more in ([], ["--workers", "2"], ["--max-memory", "300B", "--providers", "cpu"], ["--resume"]):
        assert run("-o", "cal.npz", *options, *more) == 0
        assert same_bits(Calibration.load("cal.npz"), plain)
    assert sorted(path.name for path in folder.iterdir()) == ["cal.npz", "feeds.npz", "in.onnx", "more.npz"]


def test_merging(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-o", "a.npz", "--data", "feeds.npz", "-q") == 0
    assert run("-o", "b.npz", "--data", "more.npz", "-q") == 0
    assert run("-o", "c.npz", "--merge", "a.npz", "--merge", "b.npz", "--json") == 0
    assert document(capsys)["samples"] == 48
    assert run("-o", "d.npz", "--merge", "a.npz", "--data", "more.npz", "-q") == 0
    expected = Calibration.load("a.npz").merge(Calibration.load("b.npz"))
    for name in ("c.npz", "d.npz"):
        assert same_bits(Calibration.load(name), expected)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["-o", "cal.npz"], "needs --data"),
        (["-o", "cal.npz", "--merge", "feeds.npz"], "not a calibration file"),
        (["-o", "cal.npz", "--merge", "other.npz"], "another model"),
        (["-o", "other.npz", "--merge", "other.npz", "--force"], "the output is the input itself"),
        (["-o", "cal.npz", "--data", "feeds.npz", "--workers", "0"], "--workers"),
        (["-o", "cal.npz", "--data", "feeds.npz", "--max-memory", "0.5x"], "500MB"),
        (["-o", "cal.npz", "--data", "feeds.npz", "--max-memory", "some"], "500MB"),
        (["-o", "cal.npz", "--data", "feeds.npz", "--max-memory", "100B"], "alone takes 240 bytes"),
        (["-o", "cal.npz", "--data", "feeds.npz", "--providers", "gpu"], "no provider 'gpu'"),
        (["-o", "cal.npz", "--data", "feeds.npz", "--second-moments", "rr"], "no such tensor"),
        (["-o", "cal.npz", "--merge", "other.npz", "--resume"], "--resume needs the --data"),
        (["-o", "old.npz", "--data", "feeds.npz"], "an interrupted calibration lies here"),
        (["-o", "old.npz", "--data", "feeds.npz", "--resume"], "not a readable .npz file"),
    ],
)
def test_wrong_options_are_said_and_nothing_is_written(
    folder: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate(proto(CONV.replace("Relu", "Abs")), {"x": DATA[:1]}).save("other.npz")
    Path("old.npz.partial").write_bytes(b"nonsense")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert what in said and len(said.splitlines()) == 3
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_starting_anew_drops_what_was_interrupted(folder: Path) -> None:
    Path("cal.npz.partial").write_bytes(b"nonsense")
    assert run("-o", "cal.npz", "--data", "feeds.npz", "--force", "-q") == 0
    assert not Path("cal.npz.partial").exists()


def test_inspecting_a_calibration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-o", "ranges", "--data", "feeds.npz", "--second-moments", "r", "-q") == 0
    assert main(["inspect", "ranges", "--json"]) == 0
    found = document(capsys)
    calibration = Calibration.load("ranges")
    assert found["samples"] == 40 and list(found["ranges"]) == ["x", "c", "r", "s", "y"]
    r = found["ranges"]["r"]
    assert tuple(r["minmax"]) == calibration.range("r") and r["channels"] == 3 and r["second_moments"]
    assert main(["inspect", "ranges"]) == 0
    shown = capsys.readouterr().out
    assert f"{calibration.range('c')[0]:.4g}" in shown and "feeds.npz" in shown


def test_inspecting_shows_what_is_stretched_most(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = " ".join(f"t{i + 1} = Neg (t{i})" for i in range(30))
    onnx.save(proto(f"net (float[5000] t0) => (float[5000] t30) {{ {nodes} }}"), "long.onnx")
    values = np.ones((1, 5000), np.float32)
    np.savez("feeds.npz", t0=values)
    assert main(["calibrate", "long.onnx", "--data", "feeds.npz", "-o", "cal.npz", "-q"]) == 0
    assert main(["inspect", "cal.npz"]) == 0
    assert "stretch most" in capsys.readouterr().out
    assert main(["inspect", "cal.npz", "-v"]) == 0
    assert "t30" in capsys.readouterr().out


def test_inspecting_what_is_no_calibration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "feeds.npz"]) == 2
    assert "not a calibration file" in capsys.readouterr().err
    assert main(["inspect", "missing.npz"]) == 2
