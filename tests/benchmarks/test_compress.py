"""The judgement over compressed models, on results that the test made itself."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import compress
from benchmarks.compress import HEADER, Row, sqnr_db
from benchmarks.writing import markdown, write
from onnxslim.measure.metrics import MetricResult
from onnxslim.model.io import FileInfo
from tests.models import proto


def row() -> Row:
    before = FileInfo("a.onnx", "a" * 64, 1000, 10)
    after = FileInfo("b.onnx", "b" * 64, 300, 8)
    score = MetricResult(0.95, 200, (0.91, 0.97))
    return Row("some", before, after, score, score, 40.0, 0.5, (0.49, 0.51), {})


def test_a_good_row_has_no_faults() -> None:
    assert row().faults == ()
    assert row().cells()[-1] == "yes"
    assert len(row().cells()) == len(HEADER)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"result": FileInfo("b.onnx", "b" * 64, 1001, 8)}, "larger"),
        ({"interval": (1.03, 1.05)}, "slower"),
        ({"interval": (0.9, 1.021)}, "perhaps slower"),
        ({"after": MetricResult(0.939, 200, (0.9, 0.96))}, "lost"),
    ],
)
def test_what_is_worse_is_named(change: dict[str, object], fault: str) -> None:
    assert replace(row(), **change).faults == (fault,)  # type: ignore[arg-type]


def test_two_threads_are_shown_and_judged() -> None:
    one = {"ratio": 0.5, "interval": [0.49, 0.51], "verdict": "faster", "reliable": True}
    two = {"ratio": 1.1, "interval": [1.05, 1.15], "verdict": "slower", "reliable": True}
    found = replace(row(), scenarios=(one, two))
    assert found.faults == ("slower with 2 threads",) and "1.100 1.050-1.150" in found.cells()
    busy = replace(row(), scenarios=(one, two | {"verdict": "inconclusive", "reliable": False}))
    assert busy.faults == () and "(1.100) machine busy" in busy.cells()


def test_means_are_geometric() -> None:
    rows = [replace(row(), ratio=0.25), replace(row(), ratio=1.0, result=row().original)]
    assert compress.means(rows) == "geometric means over 2: speed-up 2.000, bytes 0.548"


def test_exactly_one_point_may_be_lost() -> None:
    assert replace(row(), after=MetricResult(0.94, 200, None)).faults == ()


def test_the_original_returned_is_called_unchanged() -> None:
    assert replace(row(), result=row().original, ratio=1.0, interval=(1.0, 1.0)).cells()[-1] == "unchanged"


def test_noise_is_that_of_the_worst_output(tmp_path: Path) -> None:
    graph = """g (float[2] x) => (float[2] y, float[2] z)
               <float[2] w = {1.0, 1.0}, float[2] v = {%s}> { y = Mul(x, w)  z = Add(x, v) }"""
    for name, value in (("a", "0.0, 0.0"), ("b", "0.0, 0.5")):
        onnx.save(proto(graph % value), tmp_path / f"{name}.onnx")
    feeds = [{"x": np.array([3, 4], np.float32)}, {"x": np.array([4, 3], np.float32)}]
    found = sqnr_db(tmp_path / "a.onnx", tmp_path / "b.onnx", feeds)
    assert found == pytest.approx(10 * math.log10((9 + 16 + 16 + 9) / (0.25 + 0.25)))
    assert sqnr_db(tmp_path / "a.onnx", tmp_path / "a.onnx", feeds) == math.inf


def test_what_is_no_number_is_the_worst_noise(tmp_path: Path) -> None:
    graph = "g (float[2] x) => (float[2] y) { y = %s(x) }"
    for name in ("Neg", "Sqrt"):
        onnx.save(proto(graph % name), tmp_path / f"{name}.onnx")
    feeds = [{"x": np.array([-4, 4], np.float32)}]
    assert sqnr_db(tmp_path / "Neg.onnx", tmp_path / "Sqrt.onnx", feeds) == -math.inf


def test_a_failing_command_is_a_message() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)exit code 2.*no-such-file"):
        compress.onnxslim("bench", "no-such-file.onnx")


def test_one_failure_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, folder: Path, given: object) -> Row:
        if name == "magika":
            raise RuntimeError("exit code 2: it does not load")
        return replace(row(), model=name)

    monkeypatch.setattr(compress, "compress", run)
    monkeypatch.setenv("ZOO", "")
    arguments = ["magika", "opennsfw", "--zoo", str(tmp_path), "--results", str(tmp_path)]
    assert compress.main(arguments) == 1
    said = capsys.readouterr()
    assert "magika: exit code 2: it does not load" in said.err
    assert "opennsfw" in said.out and (tmp_path / "compress.md").read_text() == said.out
    assert compress.main(arguments[1:]) == 0


def test_results_can_be_read_by_any_json_parser(tmp_path: Path) -> None:
    write(tmp_path, "r", markdown(["a"], []), [replace(row(), sqnr_db=math.inf)])
    assert '"sqnr_db": "inf"' in (tmp_path / "r.json").read_text()
