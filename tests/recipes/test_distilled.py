"""The short way: what its two halves may lose together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onnxslim
from onnxslim.errors import BudgetError, OptionError
from onnxslim.recipes.budget import parse_drop
from onnxslim.recipes.distilled import distilled
from onnxslim.recipes.pipeline import Result
from tests.distillation.nets import feeds, noisy, wide


def make(data: Any, test: Any) -> Result:
    """A student that is far from its teacher, whatever the data say."""
    return Result(noisy(3.0), onnxslim.Report())


@pytest.fixture
def metric(tmp_path: Path) -> Callable[[float], str]:
    """A metric of 1 for the teacher's very weights and of less for all others."""
    onnxslim.save(wide(), tmp_path / "teacher.onnx")

    def named(less: float) -> str:
        text = f"""
import onnx

def weights(path):
    return {{t.name: t.raw_data for t in onnx.load(path).graph.initializer}}

def score(path):
    return 1.0 if weights(path) == weights({str(tmp_path / "teacher.onnx")!r}) else {less}
"""
        (tmp_path / f"of_{less}.py").write_text(text)
        return f"{tmp_path / f'of_{less}.py'}:score"

    return named


def test_what_is_lost_in_the_end_is_held_against_the_original(metric: Callable[[float], str]) -> None:
    given: dict[str, Any] = {"time": "200ms", "drop": parse_drop(0.3)}
    found = distilled(make, wide(), feeds(40), metric=metric(0.9), **given)
    assert found.report.metric is not None and found.report.distillation is not None
    assert (found.report.metric["before"], found.report.metric["after"]) == (1.0, 0.9)
    with pytest.raises(BudgetError, match=r"falls from 1\.0000 to 0\.5000"):
        distilled(make, wide(), feeds(40), metric=metric(0.5), **given)
    given["drop"] = None
    assert distilled(make, wide(), feeds(40), metric=metric(0.5), **given).report.metric is not None


def test_what_is_asked_of_the_noise_is_asked_of_what_has_learned(metric: Callable[[float], str]) -> None:
    given: dict[str, Any] = {"time": "200ms", "drop": None, "metric": metric(0.9)}
    assert distilled(make, wide(), feeds(40), min_sqnr=-100, **given).report.verification is not None
    with pytest.raises(BudgetError, match=r"output 'y' has -?\d+\.\d dB, not 90"):
        distilled(make, wide(), feeds(40), min_sqnr=90, **given)


def test_there_must_be_something_to_learn_on() -> None:
    with pytest.raises(OptionError, match="nothing to learn on"):
        distilled(make, wide(), None, time="1s", drop=None)
