from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from onnxslim.report.html import to_html
from onnxslim.report.markup import Safe, element, join, text
from onnxslim.report.report import Report
from tests.report import sample
from tests.report.page import Node, parse

REPORTS = {
    "resnet": sample.resnet,
    "single": sample.single,
    "simplified": sample.simplified,
    "hostile": sample.hostile,
    "large": sample.large,
    "empty": Report,
}


@pytest.fixture(params=REPORTS, scope="module")
def html(request: pytest.FixtureRequest) -> str:
    return to_html(REPORTS[request.param](), "onnxslim bench")


@pytest.fixture
def page(html: str) -> Node:
    return parse(html)


def headings(report: Report) -> list[str]:
    return [node.text for node in parse(to_html(report)).all("h2")]


def test_the_page_loads_nothing(html: str, page: Node) -> None:
    assert not page.all("script") and not page.all("iframe") and not page.all("img")
    for node in page.walk():
        for name, value in node.attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcset", "style", "xlink:href"), node
            if name == "href":
                assert value.startswith("#") or value == "data:,", value
    [style] = page.all("style")
    assert "url(" not in style.text and "@import" not in style.text
    [policy] = [n for n in page.all("meta") if n.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_ids_are_unique_and_references_lead_somewhere(page: Node) -> None:
    ids = [node.attributes["id"] for node in page.walk() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in page.walk():
        if node.attributes.get("href", "").startswith("#"):
            assert node.attributes["href"][1:] in ids
        for name in node.attributes.get("aria-labelledby", "").split():
            assert name in ids


def test_the_page_can_be_read_by_any_reader(page: Node) -> None:
    [root] = page.all("html")
    assert root.attributes["lang"] == "en"
    assert any(node.attributes.get("name") == "viewport" for node in page.all("meta"))
    assert len(page.all("h1")) == 1 and not page.all("h3")
    for table in page.all("table"):
        assert len(table.all("caption")) == 1 and table.all("caption")[0].text
        for row in table.all("tr"):
            assert len([n for n in row.all("th") if n.attributes.get("scope") == "row"]) <= 1
        assert all(node.attributes["scope"] in ("row", "col") for node in table.all("th"))
        widths = {len([n for n in row.content if isinstance(n, Node)]) for row in table.all("tr")}
        assert len(widths) == 1, table.all("caption")[0].text
    for svg in page.all("svg"):
        assert svg.attributes["role"] == "img" and svg.all("title")[0].text
    for figure in page.all("figure"):
        assert figure.all("figcaption")[0].text and figure.all("desc")[0].text


def test_every_place_in_a_chart_is_a_number_inside_it(page: Node) -> None:
    for svg in page.all("svg"):
        for node in svg.walk():
            for name in ("x", "x1", "x2", "cx", "width"):
                value = node.attributes.get(name, "0")
                assert re.fullmatch(r"\d+(\.\d+)?%?", value) and float(value.rstrip("%")) <= 100, node
            for name in ("y", "y1", "y2", "cy"):
                assert 0 <= float(node.attributes.get(name, 0)) <= float(svg.attributes["height"]), node


def test_a_page_stays_small(html: str) -> None:
    assert len(html.encode()) < 300_000


def test_what_is_left_out_is_said() -> None:
    words = parse(to_html(sample.large())).text
    for expected in (
        "400 of 2,000 rounds in 50 epochs",
        "... 2,971 more nodes (all in --json)",
        "... 2,460 more reasons (all in --json)",
        "... 261 more (all in --json)",
    ):
        assert expected in words, expected


def test_names_out_of_a_model_are_only_ever_text() -> None:
    page = parse(to_html(sample.hostile(), sample.HOSTILE))
    assert "</style></title><script>alert('1')</script>\"onload=x" in page.text
    assert len(page.all("style")) == 1 and len(page.all("title", "")) >= 1
    for control in ("\x1b", "\u202e"):
        assert control not in page.text
    known = {"class", "id", "role", "aria-label", "aria-labelledby", "aria-hidden", "tabindex", "data-label"}
    known |= {"scope", "href", "lang", "charset", "http-equiv", "content", "name", "rel", "text-anchor"}
    known |= {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"}
    assert {name for node in page.walk() for name in node.attributes} <= known


def test_text_is_escaped_unless_it_is_markup() -> None:
    assert element("b", "<i>", Safe("<i/>")) == "<b>&lt;i&gt;<i/></b>"
    assert element("b", title='"><x', data_label="&") == '<b title="&quot;&gt;&lt;x" data-label="&amp;"></b>'
    assert join(["<", Safe("<br/>")]) == "&lt;<br/>"
    assert element("b", element("i") + "<") == "<b>&lt;i&gt;&lt;/i&gt;&lt;</b>"  # a sum is no longer markup
    assert len(text("x" * 10**6)) < 300


def test_the_banner_says_what_was_found() -> None:
    page = parse(to_html(sample.resnet(), "onnxslim bench"))
    [banner] = page.all("div", "banner")
    assert banner.all("strong")[0].text == "Faster"
    for expected in (
        "a call takes 0.358 times as long as before (95 % interval 0.355 to 0.361)",
        "measured by wall time, 1 thread, CPUExecutionProvider, 308 rounds in 14 epochs",
        "3 gates: 1 met, 1 broken, 1 undecided",
        "✗ broken",
    ):
        assert expected in banner.text, expected
    assert "bad" in banner.attributes["class"]  # a gate is broken, however fast the model is
    whole = replace(sample.resnet(), gates=())
    assert "good" in parse(to_html(whole)).all("div", "banner")[0].attributes["class"]


def test_color_is_never_the_only_sign() -> None:
    page = parse(to_html(sample.resnet()))
    for node in page.all("span", "status"):
        mark = node.all("span")[0]
        assert mark.attributes["aria-hidden"] == "true" and mark.text and len(node.text) > len(mark.text) + 1


@pytest.mark.parametrize(
    ("fields", "heading"),
    [
        ({"notes": (), "latency": None}, "Notes"),
        ({"latency": None, "scenarios": ()}, "Time"),
        ({"latency": {**sample.latency(), "raw": {}}}, "Every round"),
        ({"footprint": None, "throughput": (), "transfers": None}, "Resources"),
        ({"profile": None, "before": {}, "after": {}}, "Operators and kernels"),
        ({"profile": None}, "Where the time goes"),
        ({"passes": (), "tried": ()}, "What was done"),
        ({"declined": ()}, "What was left alone"),
        ({"input": None, "output": None, "environment": {}, "seeds": {}}, "Origin"),
    ],
)
def test_a_section_without_data_is_left_out(fields: dict[str, Any], heading: str) -> None:
    assert heading in headings(sample.resnet())
    assert heading not in headings(replace(sample.resnet(), **fields))


def test_a_single_model_has_no_columns_for_another() -> None:
    page = parse(to_html(sample.single()))
    heads = {node.text for node in page.all("th") if node.attributes.get("scope") == "col"}
    assert not heads & {"before", "after", "after / before", "verdict"}
    assert page.all("strong")[0].text == "24.5 ms"


def test_the_page_is_the_same_each_time() -> None:
    assert to_html(sample.resnet()) == to_html(sample.resnet())


def test_the_report_is_written_without_numpy() -> None:
    probe = "import onnxslim.report.html as h, sys; h.to_html(h.Report()); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
