"""Interrupted calibrations go on to the same bits, or say why they cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim.calibration import checkpoint
from onnxslim.calibration.checkpoint import DataDigest
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.sources.base import Sample
from onnxslim.calibration.store import Calibration
from onnxslim.errors import CalibrationError
from onnxslim.runtime.client import open_worker
from tests.calibration.reference import CONV, images, same_bits
from tests.models import proto

DATA = images(90)


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    """For all that a single worker does here."""
    with open_worker():
        yield


@pytest.fixture(autouse=True)
def every_chunk_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE", np.inf)


class Interrupted:
    """The data, up to where the user loses patience in one of the passes over it."""

    def __init__(self, *, at: int, reading: int) -> None:
        self.at, self.reading, self.readings = at, reading, 0

    def __call__(self) -> Iterator[dict[str, Any]]:
        self.readings += 1
        for i, row in enumerate(DATA):
            if self.readings == self.reading and i == self.at:
                raise KeyboardInterrupt
            yield {"x": row[None]}


def feeds() -> Iterator[dict[str, Any]]:
    return ({"x": row[None]} for row in DATA)


@pytest.fixture(scope="module")
def whole() -> Calibration:
    return calibrate(proto(CONV), feeds, second_moments=["r"])


# reading 1 looks at the first sample only; with a limit, reading 2 finds the shapes
@pytest.mark.parametrize(
    ("at", "reading", "limit"), [(16, 2, None), (40, 2, None), (89, 2, None), (20, 3, 480), (70, 4, 480)]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_resuming_gives_the_same_bits(
    at: int, reading: int, limit: int | None, workers: int, whole: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "cal.partial"
    given: dict[str, Any] = {"second_moments": ["r"], "max_memory": limit, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        calibrate(proto(CONV), Interrupted(at=at, reading=reading), workers=workers, **given)
    assert list(tmp_path.iterdir()) == [path] or workers > 1  # where nothing may be complete yet
    kept = path.exists()
    seen: list[int] = []
    found = calibrate(
        proto(CONV),
        feeds,
        resume=True,
        workers=3 - workers,
        progress=lambda done, _: seen.append(done),
        **given,
    )
    assert same_bits(whole, found) and found.samples == 90
    if kept:
        assert seen[0] >= 16  # what was done is not done again


def test_resuming_what_was_never_begun_begins(tmp_path: Path, whole: Calibration) -> None:
    path = tmp_path / "cal.partial"
    found = calibrate(proto(CONV), feeds, second_moments=["r"], checkpoint=path, resume=True)
    assert same_bits(whole, found)


def test_resuming_what_was_complete(tmp_path: Path, whole: Calibration) -> None:
    path = tmp_path / "cal.partial"
    calibrate(proto(CONV), feeds, second_moments=["r"], checkpoint=path)
    found = calibrate(proto(CONV), feeds, second_moments=["r"], checkpoint=path, resume=True)
    assert same_bits(whole, found) and found.samples == 90


def test_a_bad_sample_loses_nothing_before_it(tmp_path: Path, whole: Calibration) -> None:
    path = tmp_path / "cal.partial"
    bad = DATA.copy()
    bad[50] = np.nan
    rows = [{"x": row[None]} for row in bad]
    with pytest.raises(CalibrationError, match="NaN"):
        calibrate(proto(CONV), rows, second_moments=["r"], checkpoint=path)
    found = calibrate(proto(CONV), feeds, second_moments=["r"], checkpoint=path, resume=True)
    assert same_bits(whole, found)


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "cal.partial"
    with pytest.raises(KeyboardInterrupt):
        calibrate(proto(CONV), Interrupted(at=40, reading=2), checkpoint=path)
    kept = path.read_bytes()
    other = DATA.copy()
    other[3, 0, 0, 0] += 1
    model = proto(CONV)
    for why, changed in {
        "its model differed": {"source": proto(CONV.replace("0.5", "0.25"))},
        "its tensors differed": {"tensors": ["r"]},
        "its second moments differed": {"second_moments": ["r"]},
        "its memory limit differed": {"max_memory": 10**6},
        "its data differed": {"data": {"x": other}},
    }.items():
        with pytest.raises(CalibrationError, match=f"cannot be continued: {why}") as caught:
            calibrate(**{"source": model, "data": {"x": DATA}, "checkpoint": path, "resume": True, **changed})
        assert str(path) in str(caught.value)
        assert path.read_bytes() == kept
    with pytest.raises(CalibrationError, match="its data differed"):  # fewer samples than were done
        calibrate(model, {"x": DATA[:20]}, checkpoint=path, resume=True)
    more = np.concatenate([DATA, images(9)])  # more is what an uninterrupted run would have seen too
    found = calibrate(model, {"x": more}, checkpoint=path, resume=True)
    assert same_bits(found, calibrate(model, {"x": more}))


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cal.partial"
    calibrate(proto(CONV), feeds, checkpoint=path)
    with np.load(path) as file:
        good = dict(file)
    head = good["head"].tobytes()
    for old, new in (
        (b'"chunks": 6', b'"chunks": -6'),
        (b'"passes": 0', b'"passes": 1'),
        (b'"digest"', b'"digits"'),
        (b"partial/1", b"partial/2"),
        (b'"rejected": {}', b'"rejected": [1]'),
        (b'"identity": {', b'"identity": {}, "x": {'),
    ):
        assert old in head
        with path.open("wb") as file:
            np.savez(file, **{**good, "head": np.frombuffer(head.replace(old, new), np.uint8)})
        with pytest.raises(CalibrationError):
            calibrate(proto(CONV), feeds, checkpoint=path, resume=True)
    path.write_bytes(b"nonsense")
    with pytest.raises(CalibrationError):
        calibrate(proto(CONV), feeds, checkpoint=path, resume=True)


def test_the_digest_tells_feeds_apart() -> None:
    def digest(**feed: Any) -> str:
        found = DataDigest()
        found.add(Sample(0, "here", feed))
        return found.hexdigest()

    x = np.arange(6, dtype=np.int32)
    words = np.array(["a", "b"], object)
    different = [
        {"x": x},
        {"x": x + 1},
        {"x": x.reshape(2, 3)},
        {"x": x.view(np.float32)},
        {"y": x},
        {"x": x, "y": x},
        {"x": words},
        {"x": words[::-1]},
        {"x": [x, x]},
        {"x": [x]},
        {"x": None},
        {"x": np.float32(3)},
    ]
    assert len({digest(**feed) for feed in different}) == len(different)
    assert digest(x=x.reshape(2, 3)) == digest(x=np.asfortranarray(x.reshape(2, 3)))
    assert digest(x=x, y=words) == digest(y=words, x=x)


SLOW = """
import time
import numpy as np

def feeds():
    for row in np.load("rows.npy"):
        time.sleep(0.02)
        yield {"x": row[None]}
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_signal_leaves_what_resume_needs(number: signal.Signals, tmp_path: Path) -> None:
    onnx.save(proto(CONV), tmp_path / "m.onnx")
    np.save(tmp_path / "rows.npy", DATA[:64])
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "onnxslim", "calibrate", "m.onnx", "--data", "slow.py:feeds"]
    command += ["-o", "cal.npz", "--workers", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "cal.npz.partial"
    while not partial.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[number], said
    assert not (tmp_path / "cal.npz").exists()
    if number != signal.SIGKILL:
        assert "--resume continues it" in said and "Traceback" not in said
    if number == signal.SIGKILL:  # it may have been at writing
        (tmp_path / ".cal.npz.partial.x1y2z3").write_bytes(b"half")
    else:
        left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
        assert left == {"m.onnx", "rows.npy", "slow.py", "cal.npz.partial"}

    def again(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = again()
    assert refused.returncode == 2 and "--resume continues it" in refused.stderr
    assert again("--resume", "-q").returncode == 0
    assert same_bits(Calibration.load(tmp_path / "cal.npz"), calibrate(tmp_path / "m.onnx", {"x": DATA[:64]}))
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"m.onnx", "rows.npy", "slow.py", "cal.npz"}


def test_no_rights_to_keep_the_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot be written"):
        calibrate(proto(CONV), feeds, checkpoint=tmp_path / "missing" / "cal.partial")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
