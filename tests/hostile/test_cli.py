"""The whole corpus through the command line, each file in a process of its own with its memory watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.hostile.corpus import Case, all_cases
from tests.hostile.process import Outcome, run_cli
from tests.models import bit_equal

MAX_SECONDS = 10
MAX_BYTES = 1 << 30


@pytest.mark.slow
@pytest.mark.parametrize("case", all_cases("refused"), ids=lambda case: case.name)
def test_refused(case: Case, tmp_path: Path) -> None:
    outcome, out = _simplify(case, tmp_path)
    _assert_refused(outcome, out)


@pytest.mark.slow
@pytest.mark.parametrize("case", all_cases("kept"), ids=lambda case: case.name)
def test_kept(case: Case, tmp_path: Path) -> None:
    outcome, out = _simplify(case, tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert_equal_outputs(tmp_path / "in" / "model.onnx", out)


def assert_equal_outputs(original: Path, rewritten: Path) -> None:
    """Bit-equal on random inputs, with onnxruntime's optimizations off."""
    reference, candidate = _session(original), _session(rewritten)
    assert [item.name for item in candidate.get_outputs()] == [item.name for item in reference.get_outputs()]
    for feed in _feeds(reference):
        expected, found = reference.run(None, feed), candidate.run(None, feed)
        assert all(map(_equal, expected, found)), (expected, found)


@pytest.mark.slow
@pytest.mark.parametrize("case", all_cases("survived"), ids=lambda case: case.name)
def test_survived(case: Case, tmp_path: Path) -> None:
    outcome, out = _simplify(case, tmp_path)
    if outcome.code:
        _assert_refused(outcome, out)
    else:
        assert out.is_file() and out.stat().st_size < 1 << 20


def _simplify(case: Case, folder: Path) -> tuple[Outcome, Path]:
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    out = folder / "out" / "out.onnx"
    outcome = run_cli("simplify", case.write(folder / "in"), "-o", out, timeout=3 * MAX_SECONDS)
    assert outcome.seconds < MAX_SECONDS, f"{outcome.seconds:.1f} s\n{outcome.stderr}"
    assert outcome.peak_bytes < MAX_BYTES, f"{outcome.peak_bytes >> 20} MiB\n{outcome.stderr}"
    return outcome, out


def _assert_refused(outcome: Outcome, out: Path) -> None:
    assert outcome.code == 2, outcome.stderr
    lines = outcome.stderr.splitlines()
    assert len(lines) == 3 and all(line.isprintable() for line in lines), outcome.stderr
    assert lines[0].startswith("error: ") and "where:" in lines[1] and "try:" in lines[2], outcome.stderr
    assert list(out.parent.iterdir()) == []


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _feeds(session: ort.InferenceSession) -> Iterator[dict[str, Any]]:
    """Random inputs; every bool is tried both ways, except one named ``never``."""
    rng = np.random.default_rng(0)
    for flag in (False, True):
        feed = {}
        for item in session.get_inputs():
            shape = [size if isinstance(size, int) and size > 0 else 2 for size in item.shape]
            if item.type == "tensor(bool)":
                feed[item.name] = np.full(shape, flag and item.name != "never")
            else:
                dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[item.type]
                feed[item.name] = rng.standard_normal(shape).astype(dtype)
        yield feed


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_equal, a, b))
    return bit_equal(a, b)
