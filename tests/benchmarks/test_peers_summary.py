"""The arithmetic over rows of peers, on made-up rows whose results are known by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.rows import HEADER, Row, load, table
from benchmarks.peers.summary import counted, fastest, geometric_means, means, models, smallest
from benchmarks.writing import write


def row(method: str, time: float = 1.0, size: float = 1.0, after: float = 0.9, model: str = "a") -> Row:
    return Row(
        *(model, method, "0" * 64, ("some==1",), 1),
        before=0.9,
        after=after,
        n=200,
        after_interval=(0.85, 0.95),
        sqnr_db=30.0,
        bytes=size,
        time=time,
        time_interval=(time - 0.01, time + 0.01),
    )


def failed(method: str, model: str = "a") -> Row:
    return Row(model, method, "0" * 64, ("some==1",), 1, failure="not built: a | b")


RIVALS = [
    row("ort-static", 0.4, 0.3, after=0.88),  # lost two points
    row("ort-static-gemms", 0.5, 0.6),
    row("ort-dynamic", 1.02, 0.25, after=0.89),  # just one point, just not slower
    row("ort-4bit", 1.03, 0.1),  # slower
    failed("nncf"),
]


def test_the_fastest_holds() -> None:
    assert fastest(RIVALS, "a").method == "ort-static-gemms"


def test_the_smallest_holds_and_is_not_slower() -> None:
    assert smallest(RIVALS, "a").method == "ort-dynamic"


def test_nothing_better_is_the_original() -> None:
    for choose in (fastest, smallest):
        kept = choose([row("onnxsim", 1.01, 1.1), failed("nncf")], "a")
        assert (kept.method, counted(kept)) == ("original", (1.0, 1.0))


def test_what_fails_or_loses_counts_as_the_original() -> None:
    assert [counted(each) for each in RIVALS] == [(1, 1), (0.5, 0.6), (1.02, 0.25), (1.03, 0.1), (1, 1)]


def test_a_score_that_is_no_number_is_lost() -> None:
    assert row("nncf", after=math.nan).lost
    assert not failed("nncf").lost


def test_geometric_means_by_hand() -> None:
    assert geometric_means([(0.5, 0.25), (2.0, 1.0)]) == pytest.approx((1.0, 0.5))


def cells(text: str) -> dict[str, list[str]]:
    """The lines of a table by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {first: others for first, *others in lines}


def test_means_count_every_model_a_method_was_run_on() -> None:
    others = [row("ort-static", 0.25, 0.25, model="b"), row("ours", 0.5, 0.25, model="b")]
    found = cells(means([row("ours", 0.5, 1.0), *RIVALS, *others]))
    assert list(found)[:3] == ["ours", "best rival by speed", "smallest rival not slower"]
    assert found["ours"] == ["2", "2.000", "0.500", "0", "0", "0"]
    assert found["best rival by speed"] == ["2", "2.828", "0.387", "0", "0", "0"]  # .5 .25, .6 .25
    assert found["smallest rival not slower"] == ["2", "1.980", "0.250", "0", "0", "0"]  # 1.02 .25
    assert found["ort-static"] == ["2", "2.000", "0.500", "0", "1", "0"]  # as the original on a
    assert found["ort-4bit"] == ["1", "0.971", "0.100", "0", "0", "1"]
    assert found["nncf"] == ["1", "1.000", "1.000", "1", "0", "0"]
    assert "onnxsim" not in found  # was not run


def test_models_stand_beside_their_best_rivals() -> None:
    found = cells(models([row("ours", 0.4, 0.25), *RIVALS, row("ort-static", 0.9, 0.3, model="b")]))
    gemms, dynamic = ["ort-static-gemms", "0.500", "0.600"], ["ort-dynamic", "1.020", "0.250"]
    assert found["a"] == ["0.400", "0.250", "30.0", *gemms, "30.0", *dynamic, "30.0"]
    assert found["b"][:4] == ["-", "-", "-", "ort-static"]


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [replace(RIVALS[0], sqnr_db=math.inf), failed("nncf")]
    write(tmp_path, "peers", table(rows), {"rows": rows})
    found = load(tmp_path / "peers.json")
    assert repr(found) == repr(rows)  # NaN is not equal to itself
    assert found[0] == rows[0] and found[0].measured_like(rows[0])
    assert not found[0].measured_like(replace(rows[0], sha256="1" * 64))
    assert load(tmp_path / "nothing.json") == []


def test_every_row_fills_the_table() -> None:
    assert {len(each.cells()) for each in RIVALS} == {len(HEADER)}
    assert all(line.count("|") == len(HEADER) + 1 for line in table(RIVALS).splitlines())
