"""Tables of benchmarks: one job that fails costs neither the others nor the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.writing import tabulate


@dataclass
class Row:
    number: int

    def cells(self) -> tuple[str, ...]:
        return f"model {self.number}", str(self.number)


def job(number: int) -> Callable[[], Row]:
    def run() -> Row:
        if number == 2:
            raise RuntimeError("it has no data")
        return Row(number)

    return run


def test_what_fails_is_named_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [(f"model {number}", job(number)) for number in (1, 2, 3)]
    assert tabulate("table", tmp_path, ("model", "n"), jobs) == 1
    said = capsys.readouterr()
    assert "model 2: it has no data" in said.err
    assert said.out == (tmp_path / "table.md").read_text()
    assert [line.split("|")[2].strip() for line in said.out.splitlines()[2:]] == ["1", "3"]
    assert json.loads((tmp_path / "table.json").read_text()) == [{"number": 1}, {"number": 3}]
    assert tabulate("table", tmp_path, ("model", "n"), jobs[:1]) == 0
