from __future__ import annotations

import math
from typing import Any

import pytest

from onnxslim.errors import OptionError
from onnxslim.recipes.gates import parse_gate
from onnxslim.report.report import Report


def report(**more: Any) -> Report:
    latency = {
        "ratio": 1.04,
        "interval": (1.03, 1.06),
        "verdict": "slower",
        "reliable": True,
        "diagnosis": ("noise",),
    }
    return Report(
        before={"bytes": 1000, "nodes": 10},
        after={"bytes": 1050, "nodes": 10},
        **{
            "latency": latency | more.pop("latency", {}),
            "metric": {"name": "top1", "before": 0.8, "after": 0.79},
            "footprint": {"before": {"rss_bytes": 100}, "after": {"rss_bytes": 120}},
            "verification": {"outputs": [{"name": "y", "sqnr_db": math.inf}, {"name": "z", "sqnr_db": 19.5}]},
            **more,
        },
    )


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        ("slower>5%", "undecided"),
        ("slower>2%", "broken"),
        ("slower>3%", "undecided"),
        ("slower>6%", "met"),
        ("bytes>+0", "broken"),
        ("bytes>+50", "met"),
        ("bytes>+0.049kB", "broken"),
        ("bytes>5%", "met"),
        ("bytes>4.9%", "broken"),
        ("bytes>1kB", "broken"),
        ("bytes > 2 MB", "met"),
        ("nodes>+0", "met"),
        ("nodes>9", "broken"),
        ("memory>20%", "met"),
        ("memory>19%", "broken"),
        ("drop>1%", "broken"),
        ("drop>1.3%", "met"),
        ("drop>0.01", "met"),
        ("drop>0.009", "broken"),
        ("sqnr<20", "broken"),
        ("sqnr<19dB", "met"),
    ],
)
def test_gates(gate: str, verdict: str) -> None:
    found = parse_gate(gate).judge(report())
    assert found["verdict"] == verdict, found
    assert found["gate"] == gate and found["found"]


def test_an_unreliable_measurement_decides_nothing() -> None:
    found = parse_gate("slower>2%").judge(report(latency={"reliable": False}))
    assert found["verdict"] == "undecided" and "noise" in found["found"]


def test_what_was_not_measured_is_undecided() -> None:
    empty = report(metric=None, footprint=None, verification=None)
    for gate in ("drop>1%", "memory>1%", "sqnr<20"):
        assert parse_gate(gate).judge(empty)["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("slower>5", "slower>5%"),
        ("slower<5%", "slower>5%"),
        ("slower>+5%", "slower>5%"),
        ("bytes<5%", "bytes>+0"),
        ("bytes>five", "bytes>+0"),
        ("bytes>5 lightyears", "bytes>+0"),
        ("nodes>5kB", "nodes>+0"),
        ("drop>+1", "drop>1%"),
        ("sqnr>20", "sqnr<20"),
        ("sqnr<5%", "sqnr<20"),
        ("slowr>5%", "did you mean slower>5%"),
        ("nothing", "one of"),
        ("", "one of"),
    ],
)
def test_what_is_no_gate(text: str, hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_gate(text)
    assert hint in (caught.value.hint or "")
