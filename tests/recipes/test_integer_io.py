"""Integer inputs and outputs in recipes and behind the search: proven, and told in the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxslim
from onnxslim.model.io import load, save
from onnxslim.passes import IntegerIo
from onnxslim.passes.base import Promise
from onnxslim.recipes.compress import with_integer_io
from onnxslim.recipes.pipeline import Result
from onnxslim.recipes.proof import Prover
from onnxslim.report.report import Report
from onnxslim.runtime.client import open_worker
from tests.models import model

QDQ = """g (float[1,8] x) => (float[1,8] y) <float s = {0.25}, uint8 z = {7}> {
    q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  a = Abs(d)
    p = QuantizeLinear(a, s, z)  y = DequantizeLinear(p, s, z) }"""
RECIPE = """[[pass]]
name = "integer-io"
"""
NOTES = (
    "input x is uint8: real = 0.25 * (integer - 7)",
    "output y is uint8: real = 0.25 * (integer - 7)",
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize("data", [False, True], ids=["random", "data"])
def test_a_recipe_is_verified_bit_by_bit(recipe: Path, data: bool) -> None:
    feeds = [{"x": np.linspace(-9, 9, 8, dtype=np.float32).reshape(1, 8)}] if data else None
    result = onnxslim.run_recipe(recipe, model(QDQ), feeds)
    assert result.report.verification is not None and result.report.verification["ok"]
    assert result.report.verification["outputs"][0]["bit_equal"] and result.report.verification["samples"]
    assert result.report.notes == NOTES
    assert [str(v.dtype) for v in result.model.graph.inputs] == ["UINT8"]


def test_a_wrong_scale_is_rolled_back(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(side: str, name: str, encoding: object) -> dict[str, str]:
        return {f"{side}.{name}.scale": "0.5", f"{side}.{name}.zero_point": "7"}

    monkeypatch.setattr("onnxslim.passes.integer_io.metadata_of", wrong)
    result = onnxslim.run_recipe(recipe, model(QDQ))
    [record] = result.report.passes
    assert record.rolled_back and "differs" in record.rolled_back and not result.report.notes
    assert [str(v.dtype) for v in result.model.graph.inputs] == ["FLOAT"]


def test_the_last_step_of_quantize(tmp_path: Path) -> None:
    save(model(QDQ), tmp_path / "qdq.onnx")
    with open_worker() as worker:
        before = Result(load(tmp_path / "qdq.onnx"), Report(), tmp_path / "qdq.onnx")
        result = with_integer_io(before, Prover(worker, [{"x": np.ones((1, 8), np.float32)}]))
        again = with_integer_io(result, Prover(worker))
    assert result.unchanged is None and result.report.notes[:2] == NOTES
    assert "the same bits (1 feed)" in result.report.notes[2]
    assert (
        [record.promise for record in result.report.passes]
        == [Promise.EXACT.value]
        == [IntegerIo.promise.value]
    )
    assert again.report.notes[-1] == "no input or output could become an integer one"
