from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from onnxslim.model.io import FileInfo
from onnxslim.passes.base import Decline
from onnxslim.report.markdown import to_markdown
from onnxslim.report.plain import plain_table
from onnxslim.report.report import PassRecord, Report, plain
from onnxslim.report.tables import tables
from onnxslim.report.terminal import to_terminal
from onnxslim.report.text import Table, duration, number, size
from onnxslim.report.to_json import to_json


@pytest.fixture
def report() -> Report:
    return Report(
        input=FileInfo("in.onnx", "a" * 64, 1000, 12),
        output=FileInfo("out.onnx", "b" * 64, 250, 7),
        before={"nodes": 12, "params": 240, "bytes": 1000, "macs": 5_000_000, "ops": {"Conv": 3}},
        after={"nodes": 7, "params": 240, "bytes": 250, "macs": 5_000_000, "ops": {"Conv": 3}},
        passes=(
            PassRecord("fold-constants", "exact", True, 0.012, 5, -64),
            PassRecord("fold-batch-norm", "close", True, 0.5, 1, 0, rolled_back="output y differs by 0.5"),
        ),
        declined=(
            Decline("fold-constants", "big", "would grow the file"),
            Decline("fold-constants", "[red]|x|<b>", "would grow the file"),
            Decline("quantize", "odd", "unknown operator"),
        ),
        verification={
            "ok": True,
            "promise": "close",
            "samples": 4,
            "outputs": [
                {
                    "name": "y",
                    "max_abs_diff": np.float32(1e-6),
                    "ref_max": 2.0,
                    "sqnr_db": math.inf,
                    "bit_equal": False,
                    "ok": True,
                }
            ],
            "unverifiable": {"z": "random: node r"},
        },
        metric={"name": "top1", "before": 0.97, "after": 0.965, "n": 500, "interval": (0.95, 0.98)},
        latency={
            "verdict": "faster",
            "ratio": 0.41,
            "interval": (0.4, 0.42),
            "before_ms": 2.0,
            "after_ms": 0.82,
        },
        tried=(
            {
                "name": "int8",
                "bytes_ratio": 0.25,
                "ratio": 0.41,
                "interval": [0.4, 0.42],
                "score": 0.965,
                "sqnr_db": 31.5,
                "kept": True,
                "reason": "",
                "weights": [
                    {"weight": "fc", "form": "2 signs", "bases": 2, "bits": 2.125, "bytes": 3400}
                    | {"sqnr_db": 9.31, "why": "fewer bits alone leave 4 dB"}
                ],
            },
            {"name": "packed", "kept": False, "reason": "larger than the original"},
        ),
        environment={"python": "3.11"},
        seeds={"data": 7},
        notes=("the feeds are random",),
    )


def test_json_has_the_fields_that_every_command_shares(report: Report) -> None:
    document = json.loads(to_json(report, "simplify"))
    assert next(iter(document)) == "schema" and document["schema"] == "onnxslim.simplify/1"
    assert document["exit_code"] == 0
    assert document["input"] == {"path": "in.onnx", "sha256": "a" * 64, "bytes": 1000, "nodes": 12}
    assert document["declined"][2] == {"pass": "quantize", "node": "odd", "reason": "unknown operator"}
    assert document["metric"]["before"] == 0.97 and document["metric"]["n"] == 500
    assert document["latency"]["interval"] == document["interval"] == [0.4, 0.42]
    assert list(document)[1:4] == ["verdict", "ratio", "interval"]
    assert document["passes"][1]["rolled_back"] == "output y differs by 0.5"
    assert document["verification"]["outputs"][0]["sqnr_db"] == "inf"


def test_an_empty_report_still_renders() -> None:
    assert "not verified" in to_terminal(Report())
    assert "not verified" in to_markdown(Report())
    assert json.loads(to_json(Report(), "run"))["metric"] is None


def test_the_terminal_shows_every_quantity(report: Report) -> None:
    text = to_terminal(report, width=140)
    for expected in (
        "1 kB",
        "250 B",
        "0.250",
        "0.410 [0.400, 0.420]",
        "-0.0050, n=500",
        "Faster: a call takes 0.410 times as long as before",
        "31.5 dB",
        "2 signs",
        "3.4 kB",
        "fewer bits alone leave 4 dB",
        "larger than the original",
    ):
        assert expected in text, expected
    assert "taken back: output y differs by 0.5" in text
    assert "output z cannot be verified: random: node r" in text
    assert "\x1b" not in text


def test_names_in_a_model_are_no_markup(report: Report) -> None:
    hostile = Report(declined=(Decline("p", "[bold]|<script>", "[link=x]why"),), verification={"ok": True})
    assert "[bold]|<script>" in to_terminal(hostile, width=140)
    markdown = to_markdown(hostile)
    assert not re.search(r"(?<!\\)<script", markdown)
    rows = [line for line in markdown.splitlines() if line.startswith("| p |")]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 5


def test_heads_do_not_break_a_markdown_table(report: Report) -> None:
    lines = to_markdown(report).splitlines()
    for row, line in enumerate(lines):
        if line.startswith("| --"):
            columns = len(re.findall(r"(?<!\\)\|", line))
            assert len(re.findall(r"(?<!\\)\|", lines[row - 1])) == columns, lines[row - 1]
            assert len(re.findall(r"(?<!\\)\|", lines[row + 1])) == columns, lines[row + 1]


def test_what_needs_no_verification_says_so() -> None:
    idle, busy = PassRecord("a", "exact"), PassRecord("b", "exact", modified=True)
    assert "nothing to verify" in to_terminal(Report(passes=(idle,)))
    assert "not verified" in to_terminal(Report(passes=(idle, busy)))
    assert "matter of the budget" in to_terminal(Report(verification={"ok": True, "promise": "lossy"}))


def test_control_characters_do_not_reach_the_terminal() -> None:
    hostile = Report(declined=(Decline("p", "\x1b[31mred\x07", "a\nb\u202e"),))
    for text in (to_terminal(hostile), to_markdown(hostile)):
        assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text


def test_declines_are_counted_by_reason(report: Report) -> None:
    assert report.declined_by_reason() == {
        ("fold-constants", "would grow the file"): ["big", "[red]|x|<b>"],
        ("quantize", "unknown operator"): ["odd"],
    }


def test_ratio_is_unknown_without_both_sides() -> None:
    assert Report(before={"bytes": 10}).ratio("bytes") is None
    assert Report(before={"bytes": 0}, after={"bytes": 3}).ratio("bytes") is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (90_300_000, "90.3 MB"), (3e9, "3 GB")],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_durations_and_numbers() -> None:
    assert duration(0.0000005) == "0.5 us"
    assert duration(0.25) == "250 ms"
    assert duration(600) == "600 s"
    assert number(1234567) == "1,234,567"
    assert number(None) == "-"


def test_plain_handles_numpy_and_odd_values() -> None:
    assert plain({"a": np.arange(3), "b": np.float32(0.5), "c": float("nan"), "d": {1}, "e": object}) == {
        "a": [0, 1, 2],
        "b": 0.5,
        "c": "nan",
        "d": [1],
        "e": str(object),
    }


def test_tables_agree_in_width(report: Report) -> None:
    for table in tables(report):
        assert all(len(row) == len(table.head) for row in table.rows), table.title


@pytest.mark.parametrize("width", [40, 60, 100])
def test_plain_tables_fold_their_cells_and_lose_nothing(width: int) -> None:
    long = "x" * 90
    table = Table("T", ("name", "n", "why"), ((long, "12", "y" * 70), ("short", "7", "")), align="lrl")
    lines = plain_table(table, width)
    text = "".join(lines)
    assert max(map(len, lines)) <= width
    assert text.count("x") == 90 and text.count("y") == 71 and "short" in text and "12" in text
