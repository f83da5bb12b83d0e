"""What ``load`` alone does with the corpus: refuses what is refused, loads everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxslim.errors import ModelError, ResourceError
from onnxslim.model.check import check
from onnxslim.model.io import load, save
from tests.hostile.corpus import Case, all_cases


def test_corpus_covers_enough() -> None:
    assert len(all_cases("refused")) >= 90
    assert len(all_cases("kept")) >= 28


@pytest.mark.parametrize("case", all_cases("refused"), ids=lambda case: case.name)
def test_refused(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    with pytest.raises((ModelError, ResourceError)) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert 2 <= len(lines) <= 3, lines
    assert all(line.isprintable() for line in lines), lines
    assert caught.value.where and caught.value.hint, lines


@pytest.mark.parametrize("case", [*all_cases("kept"), *all_cases("survived")], ids=lambda case: case.name)
def test_loaded(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    model = load(path)
    check(model)
    save(model, tmp_path / "again.onnx")
    check(load(tmp_path / "again.onnx"))
