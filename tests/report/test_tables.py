from __future__ import annotations

from dataclasses import replace

import pytest

from onnxslim.report.markdown import to_markdown
from onnxslim.report.measured import count_table, hot_table, joined, percentile_table, running_table
from onnxslim.report.report import PassRecord, Report
from onnxslim.report.tables import tables
from onnxslim.report.terminal import to_terminal
from onnxslim.report.text import Table
from onnxslim.report.verdict import headline, is_single
from tests.report import sample


def named(report: Report, title: str) -> Table:
    [found] = [table for table in tables(report) if table.title.startswith(title)]
    return found


def test_a_table_for_everything_that_was_measured() -> None:
    report = sample.resnet()
    assert named(report, "Time per call").rows == (
        ("before", "24.5 ms", "25.6 ms", "31.2 ms", "24.3 ms"),
        ("after", "8.78 ms", "9.17 ms", "11.2 ms", "8.7 ms"),
    )
    assert named(report, "Settings").rows[4][3:] == ("1.015 [0.986, 1.045]", "inconclusive")
    assert named(report, "Throughput").rows[0] == (
        "1 stream",
        "40.7 / s",
        "113.2 / s",
        "2.780 [2.710, 2.840]",
    )
    assert named(report, "Start and memory").rows[0] == ("session creation", "412 ms", "291 ms", "0.706")
    assert named(report, "Gates").rows[2] == ("rss <= 0.4x", "broken", "0.433 of the memory")
    assert named(report, "QuantizeLinear and").rows[1] == ("logits_DequantizeLinear", "after")
    assert dict(row[:2] for row in running_table(report).rows)["integer kernels"] == "0"
    assert [row[2] for row in running_table(report).rows][1:4] == ["74", "53", "2"]
    for table in tables(report):
        assert all(len(row) == len(table.head) == len(table.align) for row in table.rows), table.title


def test_candidates_show_their_times_with_every_number_of_threads() -> None:
    found = [
        {"threads": 1, "ratio": 0.4, "interval": [0.39, 0.41]},
        {"threads": 2, "ratio": 0.5, "interval": [0.48, 0.52]},
    ]
    several = Report(tried=({"name": "int8", "ratio": 0.5, "scenarios": found},))
    cell = named(several, "Tried").rows[0][2]
    assert cell == "1 thread: 0.400 [0.390, 0.410], 2 threads: 0.500 [0.480, 0.520]"
    alone = Report(tried=({"name": "int8", "ratio": 0.5, "interval": [0.48, 0.52]},))
    assert named(alone, "Tried").rows[0][2] == "0.500 [0.480, 0.520]"


def test_a_device_shows_its_transfers() -> None:
    side = {"to_device_s": 0.001, "compute_s": 0.004, "to_host_s": 0.0005}
    report = Report(transfers={"before": side, "after": {**side, "compute_s": 0.002}})
    assert named(report, "Transfers").rows[1] == ("computing", "4 ms", "2 ms", "0.500")


def test_a_single_model_has_no_empty_columns() -> None:
    report = sample.single()
    assert is_single(report) and not is_single(sample.resnet()) and not is_single(sample.simplified())
    for table in tables(report):
        assert not {"before", "after", "after / before"} & set(table.head), table.title
        assert all(set(column) != {"-"} for column in zip(*table.rows, strict=True)), table.title
    assert percentile_table(report).rows[0][0] == "all calls"
    assert str(headline(report)).startswith("24.5 ms: a call takes this long in the median")
    assert "verified" not in to_terminal(report)


def test_hot_nodes_are_joined_and_sorted_by_the_hotter_side() -> None:
    entries = (
        {"output": "a", "before": {"op": "Conv", "us": 10.0}, "after": {"op": "QLinearConv", "us": 3.0}},
        {"output": "b", "before": None, "after": {"op": "QuantizeLinear", "us": 50.0}},
        {"output": "c", "before": {"op": "Gemm", "us": 20.0}, "after": None},
    )
    report = Report(profile={"before": {}, "after": {}, "joined": entries})
    assert [entry["output"] for entry in joined(report)] == ["b", "c", "a"]
    assert hot_table(report, 1).rows == (
        ("b", "-", "-", "QuantizeLinear", "50 us"),
        ("... 2 more nodes (all in --json)", "", "", "", ""),
    )
    assert hot_table(report, 2).rows[1:] == (
        ("c", "Gemm", "20 us", "-", "-"),
        ("a", "Conv", "10 us", "QLinearConv", "3 us"),
    )


def test_operators_that_changed_come_first() -> None:
    rows = count_table("", {"Conv": 9, "Relu": 4}, {"Conv": 9, "QuantizeLinear": 2}, 10).rows
    assert rows == (("Relu", "4", "0", "-4"), ("QuantizeLinear", "0", "2", "+2"), ("Conv", "9", "9", "0"))
    assert count_table("", {"Conv": 9, "Relu": 10}, None, 10).rows == (("Relu", "10"), ("Conv", "9"))


@pytest.mark.parametrize(
    ("ratio", "noise", "expected"),
    [
        (0.5, 0.02, "Faster: a call takes 0.500 times as long as before"),
        (1.5, 0.02, "Slower: a call takes 1.500 times as long as before"),
        (1.0, 0.01, "Equal: a call takes 1.000 times as long as before"),
        (1.01, 0.1, "Inconclusive: a call takes 1.010 times as long as before"),
    ],
)
def test_the_verdict_in_plain_words(ratio: float, noise: float, expected: str) -> None:
    assert str(headline(Report(latency=sample.latency(ratio, noise=noise)))).startswith(expected)


def test_without_a_measurement_the_verdict_is_about_the_file() -> None:
    report = sample.simplified()
    found = headline(report)
    assert found and (found.word, found.tone) == ("Fewer nodes", "good")
    assert "126 nodes before and 120 after" in found.sentence and "verified on 4 feeds" in found.details[0]
    for verification, tone in ((None, "unsure"), ({"ok": False, "verified": True}, "bad")):
        doubtful = headline(replace(report, verification=verification))
        assert doubtful and doubtful.tone == tone
    assert report.input and report.output
    smaller = headline(replace(report, output=replace(report.output, bytes=report.input.bytes // 4)))
    assert smaller and smaller.word == "Smaller" and "(0.250 of the bytes)" in smaller.sentence
    larger = headline(replace(report, output=replace(report.output, bytes=report.input.bytes * 2)))
    assert larger and (larger.word, larger.tone) == ("Larger", "bad")
    idle = Report(before={"bytes": 9}, after={"bytes": 9}, passes=(PassRecord("a", "exact"),))
    same = headline(idle)
    assert same and same.word == "Unchanged"
    assert headline(Report()) is None


def test_markdown_begins_with_the_verdict_and_folds_the_rest() -> None:
    lines = to_markdown(sample.resnet(), "onnxslim bench").splitlines()
    assert lines[0] == "# onnxslim bench"
    assert lines[2].startswith("**Faster**: a call takes 0.358 times as long as before")
    assert lines[4:7:2] == ["## Model", "|  | before | after | after / before |"]
    order = [lines.index(line) for line in ("## Settings", "<details>", "## Passes", "</details>")]
    assert order == sorted(order)
    assert (
        lines.count("<details>") == 1
        and "- the feeds are random: accuracy says nothing about real inputs" in lines
    )


def test_notes_and_diagnosis_are_said_once() -> None:
    report = sample.resnet()
    assert report.latency
    twice = replace(report, notes=(*report.notes, *report.latency["diagnosis"]))
    assert to_terminal(twice).count("the machine became 6% slower") == 1


def test_hostile_reports_still_have_every_form() -> None:
    for shown in (to_terminal(sample.hostile()), to_markdown(sample.hostile())):
        assert "\x1b" not in shown and "\u202e" not in shown
