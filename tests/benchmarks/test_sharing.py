"""The models with copies are what they claim to be, and a table is written as it grows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import onnx
import pytest

import onnxslim
from benchmarks import copies, sharing


@pytest.mark.parametrize("name", copies.KINDS)
def test_weights_are_there_more_than_once(name: str) -> None:
    model = copies.KINDS[name]()
    onnx.checker.check_model(model, full_check=True)
    contents = Counter(hashlib.sha256(t.raw_data).digest() for t in model.graph.initializer)
    transposed = name == "BERT-like, tied"
    assert max(contents.values()) == {"ALBERT-like": 8}.get(name, 1 if transposed else 2)


def test_many_initializers_are_half_copies() -> None:
    model = copies.many(10)
    assert len(onnxslim.share(model, verify=False).model.graph.initializers) == 5


def test_a_large_model_is_written_in_pieces(tmp_path: Path) -> None:
    copies.write_large(tmp_path / "large.onnx", count=4, width=64, length=100)
    model = onnxslim.load(tmp_path / "large.onnx")
    assert len(model.graph.initializers) == 4
    found = onnxslim.share(tmp_path / "large.onnx")
    assert len(found.model.graph.initializers) == 2
    assert found.report.verification is not None and found.report.verification["ok"]


def test_a_table_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = ("initializers", "CPU s", "us each", "bytes")
    monkeypatch.setitem(sharing.TABLES, "many", (lambda setting: iter([("1", "2", "3", "4")]), header))
    assert sharing.main(["many", "--zoo", str(tmp_path), "--results", str(tmp_path)]) == 0
    assert "| 1            |     2 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "sharing-many.json").read_text()) == [["1", "2", "3", "4"]]
