"""What is drawn is where the numbers say; places are checked against arithmetic of their own."""

from __future__ import annotations

import itertools
import math

import pytest

from onnxslim.measure import latency as measured
from onnxslim.report.charts import Estimate, Strip, bars, interval, interval_scale, strip
from onnxslim.report.svg import LogScale
from onnxslim.report.verdict import MARGIN
from tests.report import sample
from tests.report.page import Node, parse


def place(node: Node, name: str) -> float:
    value = node.attributes[name]
    return float(value.removesuffix("%"))


def expected(ratio: float, scale: LogScale) -> float:
    """Per cent: 2 at the low end, 98 at the high end, equal factors equally far apart."""
    return 2 + 96 * math.log(ratio / scale.low, scale.high / scale.low)


def test_the_margin_is_that_of_the_measurement() -> None:
    assert MARGIN == measured.MARGIN


def test_equal_factors_are_equally_far_apart() -> None:
    scale = LogScale(0.25, 4.0)
    assert [scale(ratio) for ratio in (0.25, 0.5, 1, 2, 4)] == pytest.approx([2, 26, 50, 74, 98])
    assert scale(0.001) == 2 and scale(1e9) == pytest.approx(98)


@pytest.mark.parametrize(
    ("low", "high"), [(0.999, 1.001), (0.95, 1.05), (0.33, 1.1), (0.9, 2.4), (0.01, 50), (1e-9, 1e9)]
)
def test_ticks_are_round_ratios_that_do_not_touch(low: float, high: float) -> None:
    scale = LogScale(low, high)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 9 and all(low <= tick <= high for tick in ticks)
    places = [scale(tick) for tick in ticks]
    assert all(b - a >= 6 for a, b in itertools.pairwise(places))
    assert all(float(f"{tick:.6g}") == pytest.approx(tick, rel=1e-12) for tick in ticks)


def test_bars_are_as_long_as_their_numbers() -> None:
    page = parse(bars(80.0, 20.0, (10.0, 40.0)))
    before, after = page.all("rect")
    assert place(after, "width") / place(before, "width") == pytest.approx(0.25, abs=1e-3)
    span, low, high = page.all("line")
    assert place(span, "x1") / place(before, "width") == pytest.approx(0.125, abs=1e-3)
    assert place(span, "x2") / place(before, "width") == pytest.approx(0.5, abs=1e-3)
    assert place(low, "x1") == place(span, "x1") and place(high, "x1") == place(span, "x2")
    assert "0.25 times" in page.all("title")[0].text


def test_bars_of_nothing_are_not_drawn() -> None:
    assert bars(None, None) == "" and bars(0.0, 0.0) == ""
    assert len(parse(bars(None, 3.0)).all("rect")) == 1


def test_an_interval_is_drawn_where_the_scale_says() -> None:
    estimate = Estimate("a", 0.6, (0.5, 0.75), "faster")
    scale = interval_scale([estimate])
    assert scale.low < 0.5 and scale.high > 1.02
    page = parse(interval(estimate, scale))
    [point] = page.all("circle")
    [span] = page.all("line", "span")
    [margin] = page.all("rect", "margin")
    [unity] = page.all("line", "unity")
    assert place(point, "cx") == pytest.approx(expected(0.6, scale), abs=0.01)
    assert place(span, "x1") == pytest.approx(expected(0.5, scale), abs=0.01)
    assert place(span, "x2") == pytest.approx(expected(0.75, scale), abs=0.01)
    assert place(unity, "x1") == pytest.approx(expected(1, scale), abs=0.01)
    assert place(margin, "x") == pytest.approx(expected(1 / 1.02, scale), abs=0.01)
    right = place(margin, "x") + place(margin, "width")
    assert right == pytest.approx(expected(1.02, scale), abs=0.02)


def test_every_round_is_a_point_in_the_row_of_its_epoch() -> None:
    latency = sample.latency(0.4, epochs=5, rounds=7)
    found = Strip.of(latency)
    estimates = [e for e in (Estimate.control_of(latency), Estimate.of(latency, "after / before")) if e]
    assert found is not None and len(estimates) == 2 and found.left_out == 0
    page = parse(strip(found, estimates, "rounds"))
    scale = found.scale(estimates)
    for kind, name in (("round", "b_over_a"), ("control-round", "control")):
        [group] = page.all("g", kind)
        circles, raw = group.all("circle"), latency["raw"][name]
        assert len(circles) == 35
        assert [place(circle, "cx") for circle in circles] == pytest.approx(
            [min(max(expected(math.exp(value), scale), 2), 98) for epoch in raw for value in epoch], abs=0.01
        )
        rows = [[place(circle, "cy") for circle in circles[7 * e : 7 * e + 7]] for e in range(5)]
        assert all(max(above) < min(below) for above, below in itertools.pairwise(rows))
        assert all(len(set(row)) == 7 for row in rows)  # scattered, so that points do not hide each other
    [line] = page.all("line", "verdict-line")
    assert place(line, "x1") == pytest.approx(expected(0.4, scale), abs=0.01)
    [band] = page.all("rect", "control-band")
    assert place(band, "x") == pytest.approx(expected(0.9968, scale), abs=0.01)


def test_the_axis_of_a_strip_is_labelled_where_its_ratios_are() -> None:
    latency = sample.latency()
    found = Strip.of(latency)
    assert found is not None
    scale = found.scale([])
    labels = {
        node.text: place(node, "x")
        for node in parse(strip(found, [], "rounds")).all("text")
        if node.attributes["text-anchor"] == "middle"
    }
    assert "1" in labels and len(labels) > 3
    for label, x in labels.items():
        assert x == pytest.approx(expected(float(label), scale), abs=0.01)


def test_a_strip_has_a_limit_and_takes_points_from_all_epochs() -> None:
    found = Strip.of(sample.latency(epochs=60, rounds=40), most=300)
    assert found is not None
    assert (len(found.rounds), len(found.control), found.found, found.left_out) == (300, 300, 2400, 2100)
    assert {epoch for epoch, _ in found.rounds} == set(range(60))


def test_a_stray_round_does_not_stretch_the_axis() -> None:
    latency = sample.latency(1.0, epochs=10, rounds=20)
    latency["raw"]["b_over_a"][0][0] = math.log(1000.0)
    found = Strip.of(latency)
    assert found is not None
    scale = found.scale([])
    assert scale.high < 3 and found.outside(scale) >= 1


def test_what_was_not_measured_has_no_estimate() -> None:
    assert Estimate.of({"ratio": 1.0, "verdict": None}, "a") is None
    assert Estimate.of({"ratio": math.nan, "verdict": "faster"}, "a") is None
    assert Estimate.control_of({}) is None and Strip.of({}) is None
