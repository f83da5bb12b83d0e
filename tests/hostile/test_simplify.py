"""What is valid is simplified with equal outputs: the quick form, in one process with one worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxslim import simplify
from onnxslim.runtime.client import open_worker
from tests.hostile.corpus import Case, all_cases
from tests.hostile.test_cli import assert_equal_outputs

CASES = [case for case in all_cases("kept") if case.group != "files"]


@pytest.fixture(scope="module", autouse=True)
def worker() -> Iterator[None]:
    with open_worker(budget_bytes=640 << 20, wall_s=20):
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kept(case: Case, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = case.write(tmp_path / "in")
    simplify(path).save(tmp_path / "out.onnx")
    assert_equal_outputs(path, tmp_path / "out.onnx")
