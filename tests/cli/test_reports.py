from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxslim.cli.reports import check_report, write_report
from onnxslim.errors import OptionError
from onnxslim.report.report import Report


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_suffix_names_the_form() -> None:
    report = Report(before={"bytes": 100}, after={"bytes": 40})
    for suffix, beginning in (
        (".html", "<!DOCTYPE html>\n<html"),
        (".md", "# onnxslim bench\n"),
        (".json", "{"),
    ):
        check_report(f"out{suffix}", ("a.onnx", None, "-"), force=False)
        write_report(f"out{suffix}", "bench", report, 4)
        assert Path(f"out{suffix}").read_text(encoding="utf-8").startswith(beginning)
    document = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert (document["schema"], document["exit_code"]) == ("onnxslim.bench/1", 4)


@pytest.mark.parametrize(
    ("path", "models", "expected"),
    [
        ("report.pdf", (), "reports end in .html, .md or .json"),
        ("report", (), "reports end in"),
        ("model.md", ("model.md",), "same file"),
        ("./model.md", (None, "model.md"), "same file"),
        ("link.md", ("old.html",), "same file"),
        ("old.html", (), "exists already"),
        ("nowhere/report.md", (), "folder"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    path: str, models: tuple[str | None, ...], expected: str
) -> None:
    Path("old.html").write_text("precious")
    Path("link.md").symlink_to("old.html")
    with pytest.raises(OptionError, match=expected):
        check_report(path, models, force=False)
    assert Path("old.html").read_text() == "precious"


def test_force_overwrites_a_report() -> None:
    Path("old.html").write_text("old")
    check_report("old.html", (), force=True)
    write_report("old.html", "bench", Report())
    assert Path("old.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
