"""What a report says of a training: numbers, curves, and nothing that a name could do to the page."""

from __future__ import annotations

from onnxslim.report.html import to_html
from onnxslim.report.markdown import to_markdown
from onnxslim.report.report import Report
from onnxslim.report.terminal import to_terminal
from onnxslim.report.training import curve, looks, sentences, term_table, trained_table

HOSTILE = "<script>alert(1)</script>"
TOLD = {
    "steps": 200,
    "planned": 200,
    "best": 100,
    "seconds": 12.0,
    "rate": 0.003,
    "rollbacks": 1,
    "samples": 300,
    "terms": [{"name": f"kl of {HOSTILE}", "weight": 2.0, "before": 0.5, "after": 0.125}],
    "looks": [
        {"step": 0, "loss": 1.0, "agreement": 0.5},
        {"step": 100, "loss": 0.25, "agreement": 0.75},
        {"step": 200, "loss": float("nan"), "agreement": 0.625},
    ],
    "trained": [
        {"name": "w", "kind": "signs", "elements": 64},
        {"name": "v", "kind": "signs", "elements": 36},
        {"name": "b", "kind": "floats", "elements": 8},
    ],
    "outputs": [{"name": HOSTILE, "sqnr_db": 3.0}],
}
REPORT = Report(
    before={"bytes": 10},
    after={"bytes": 10},
    metric={"name": "top1", "before": 0.5, "after": 0.75, "n": 8, "teacher": 0.875},
    verification={"outputs": [{"name": HOSTILE, "sqnr_db": 9.0, "ok": True}]},
    distillation=TOLD,
)


def test_tables_have_what_was_measured() -> None:
    assert trained_table(REPORT).rows == (("signs", "2", "100"), ("floats", "1", "8"))
    [term, agreement] = term_table(REPORT).rows
    assert term[1:] == ("2", "0.5", "0.125") and agreement[1:] == ("-", "0.5", "0.75")
    assert looks(REPORT, "loss") == [(0, 1.0), (100, 0.25)]


def test_sentences_say_what_was_kept() -> None:
    first, second, third = sentences(REPORT)
    assert "200 steps" in first and "step 100" in first and "300 samples" in first
    assert second.startswith("taken back 1 time") and third == "top1 of the teacher: 0.875"
    assert sentences(Report()) == []


def test_the_page_draws_both_curves_and_runs_nothing() -> None:
    page = to_html(REPORT)
    assert page.count('class="curve"') >= 2 and "Training" in page
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "Training" not in to_html(Report(before={"bytes": 1}, after={"bytes": 1}))


def test_a_curve_needs_two_points_and_marks_the_best() -> None:
    assert not curve([(0, 1.0)], 0, "loss", "one")
    drawn = str(curve([(0, 1.0), (50, 0.5), (100, 0.75)], 50, "loss", "two"))
    assert drawn.count("<circle") == 1 and "1 at first, 0.75 at the end" in drawn
    assert str(curve([(0, 1.0), (5, 1.0)], 0, "flat", "three")).count("nan") == 0


def test_text_forms_have_the_terms() -> None:
    assert "0.125" in to_terminal(REPORT) and "0.125" in to_markdown(REPORT)
