"""Task metrics against counts made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim.errors import OptionError
from onnxslim.measure.metrics import agreeing, cosine, is_class_like, resolve
from onnxslim.measure.stats import wilson_interval
from onnxslim.runtime.client import open_worker
from tests.models import proto

SOFTMAX = proto("g (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) { y = Softmax(x) z = Neg(x) }")
OTHER = proto("g (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) { m = Neg(x) y = Softmax(m) z = Neg(x) }")
FEEDS = [{"x": np.array([[1, 5, 2]], np.float32)}, {"x": np.array([[9, 5, 2], [0, 0, 7]], np.float32)}]


@pytest.fixture(scope="module", autouse=True)
def worker() -> Any:
    with open_worker() as worker:
        yield worker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(SOFTMAX, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_top1_counts_hits(path: Path) -> None:
    result = resolve("top1", feeds=FEEDS, labels=[np.array(1), np.array([0, 1])]).score(path)
    assert (result.value, result.n) == (pytest.approx(2 / 3), 3)
    assert result.interval == wilson_interval(2, 3)
    assert resolve("top1", feeds=FEEDS, labels=[[1], [0, 2]], output="z").score(path).value == 0


def test_agreement_counts_equal_classes_of_probabilities(path: Path) -> None:
    metric = resolve("agreement", feeds=FEEDS, original=OTHER)
    assert metric.score(path).value == 0
    assert resolve("agreement", feeds=FEEDS, original=path).score(path).value == 1


def test_agreement_of_other_outputs_is_the_mean_cosine(path: Path, tmp_path: Path) -> None:
    turned = proto("g (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) { y = Softmax(x) z = Identity(x) }")
    onnx.save(turned, tmp_path / "t.onnx")
    result = resolve("agreement", feeds=FEEDS, original=path, output="z").score(tmp_path / "t.onnx")
    assert result.value == pytest.approx(-1) and result.n == 2


def test_a_function_gets_the_path(path: Path, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(
        "import os\ndef size(path): return os.path.getsize(path)\n"
        "def nan(path): return float('nan')\ndef fails(path): raise KeyError('k')\n"
        "def text(path): return 'x'\n"
    )
    assert resolve(f"{tmp_path}/score.py:size").score(path).value == path.stat().st_size
    for name, message in (("nan", "NaN"), ("fails", "KeyError"), ("text", "ValueError")):
        with pytest.raises(OptionError, match=message):
            resolve(f"{tmp_path}/score.py:{name}").score(path)


def test_what_is_missing_is_said(path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean top1"):
        resolve("top-1")
    with pytest.raises(OptionError, match="needs labels"):
        resolve("top1", feeds=FEEDS)
    with pytest.raises(OptionError, match="needs data"):
        resolve("agreement")
    with pytest.raises(OptionError, match="no output 'yy'"):
        resolve("top1", feeds=FEEDS, labels=[[1], [1, 1]], output="yy").score(path)
    with pytest.raises(OptionError, match="labels"):
        resolve("top1", feeds=FEEDS, labels=[[1], [1]]).score(path)
    with pytest.raises(OptionError, match="no feeds"):
        resolve("agreement", feeds=[], original=path)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ([[0.2, 0.8]], True),
        ([[1.0, 0.0], [0.5, 0.5]], True),
        ([[1.0]], False),
        ([[-0.2, 1.2]], False),
        ([[3.0, 4.0]], False),
    ],
)
def test_probabilities_are_recognised(output: Any, expected: bool) -> None:
    assert is_class_like(np.array(output, np.float32)) is expected


def test_cosine() -> None:
    assert cosine(np.array([1.0, 0]), np.array([1.0, 1.0])) == pytest.approx(2**-0.5)
    assert cosine(np.zeros(2), np.zeros(2)) == 1 and cosine(np.zeros(2), np.ones(2)) == 0
    assert cosine(np.ones(2), np.array([np.nan, 1])) == 0


def test_classes_that_the_original_holds_for_equal_count_as_agreed() -> None:
    reference = np.array([[0.5, 0.5, 0.0], [0.50004, 0.49996, 0.0], [0.6, 0.4, 0.0], [0.2, 0.3, 0.5]])
    other = np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    assert agreeing(reference, other).tolist() == [True, True, False, True]
    assert agreeing(reference.reshape(2, 2, 3), other.reshape(2, 2, 3)).tolist() == [True, True, False, True]
