"""The measurement of calibration, on processes and files whose outcome is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.calibration import HEADER, Figures, Run, kill, per_sample, process, rows, same_bits, store
from onnxslim.calibration.runner import calibrate
from tests.calibration.reference import CONV, images
from tests.models import proto


def test_feeds_are_repeated_with_noise_on_floats(tmp_path: Path) -> None:
    own = [{"x": np.full((1, 2), i + 1, np.float32), "id": np.array([i])} for i in range(2)]
    folder = store(own, 5, tmp_path / "feeds")
    found = [dict(np.load(file)) for file in sorted(folder.iterdir())]
    assert len(found) == 5
    for i, feed in enumerate(found):
        origin = own[i % 2]
        assert feed["x"].dtype == np.float32 and feed["id"] == origin["id"]
        assert np.array_equal(feed["x"], origin["x"]) == (i < 2)
        np.testing.assert_allclose(feed["x"], origin["x"], rtol=0.5)


def test_equal_and_unequal_calibrations_are_told_apart(tmp_path: Path) -> None:
    data = images(3)
    for name, rows_of_data in (("a", data), ("b", data), ("c", data[:2])):
        calibrate(proto(CONV), {"x": rows_of_data}).save(tmp_path / name)
    assert same_bits(tmp_path / "a", tmp_path / "b")
    assert not same_bits(tmp_path / "a", tmp_path / "c")


def test_a_process_that_is_over_cannot_be_killed() -> None:
    assert kill([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
    assert not kill([sys.executable, "-c", ""], 60)


def test_failures_are_shown() -> None:
    with pytest.raises(RuntimeError, match="no good"):
        process([sys.executable, "-c", "import sys; sys.exit('no good')"], 1)


def test_the_cost_of_a_sample_is_a_slope() -> None:
    runs = [Run(10, 3.0, 5_000_000, 1.0), Run(30, 4.0, 6_000_000, 1.0)]
    assert per_sample(runs) == pytest.approx(0.05)
    figures = Figures(
        "m", runs, runs, [Run(1, 1.0, 1, 1.0), Run(2, 1.2, 1, 1.0)], "", {"at 5%": True}, {"1": False}
    )
    table = rows(figures)
    assert all(len(row) == len(HEADER) for row in table) and len(table) == 2
    assert table[0][:6] == ("m", "10", "5", "50.0", "200.0", "0.25")
    assert table[0][6:] == ("1 of 1 same", "0 of 1 same")


def test_the_peer_runs(tmp_path: Path) -> None:
    onnx.save(proto(CONV.replace("[n, 2, h, 5]", "[1, 2, 4, 5]")), tmp_path / "m.onnx")
    store([{"x": images(1)}], 3, tmp_path / "feeds")
    command = [sys.executable, "-m", "benchmarks.calibration_peer", str(tmp_path / "m.onnx")]
    assert process([*command, str(tmp_path / "feeds"), "2"], 2).cpu_s > 0
