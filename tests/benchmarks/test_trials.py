"""What the trials say of made-up verdicts, and that their models are what they claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import trials
from benchmarks.models import FAMILIES
from benchmarks.trials import Trial, rows
from onnxslim.analysis.cost import cost
from tests.models import run


def trial(kind: str, verdict: str, truth: float = 1.0, loaded: bool = False) -> Trial:
    return Trial("mlp", kind, loaded, truth, verdict, 1.0, (1.0, 1.0), "wall", 1.0, ())


@pytest.mark.parametrize(
    ("kind", "truth", "verdict", "false"),
    [
        ("same", 1.0, "equal", False),
        ("same", 1.0, "inconclusive", False),
        ("same", 1.0, "faster", True),
        ("same", 1.0, "slower", True),
        ("padded", 1.1, "slower", False),
        ("padded", 1.1, "faster", True),
        ("padded", 1.1, "equal", True),
        ("padded", 0.9, "faster", False),
        ("padded", 0.9, "slower", True),
        ("padded", 0.9, "inconclusive", False),
    ],
)
def test_false_claims(kind: str, truth: float, verdict: str, false: bool) -> None:
    assert trial(kind, verdict, truth).is_false is false


def test_the_table_counts_by_kind_and_state() -> None:
    found = [
        trial("same", "equal"),
        trial("same", "faster"),
        trial("padded", "inconclusive", 1.1, loaded=True),
    ]
    table = rows(found)
    assert [row[1] for row in table] == ["2", "0", "0", "1"]
    assert table[0][2:] == ("1", "1", "0", "0", "1", "0")
    assert table[3][2:] == ("0", "0", "0", "1", "0", "1")


@pytest.mark.parametrize("family", FAMILIES)
def test_models_run_and_their_work_grows_with_depth(family: str) -> None:
    from onnxslim._ir import ir

    make, depth = FAMILIES[family]
    macs = []
    for blocks in (depth, 2 * depth):
        model = make(blocks)
        onnx.checker.check_model(model)
        macs.append(cost(ir.from_proto(model)).macs)
    assert macs[1] == 2 * macs[0] > 0
    shape = [d.dim_value for d in make(1).graph.input[0].type.tensor_type.shape.dim]
    [y] = run(make(depth), {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)})
    assert np.isfinite(y).all() and y.any()


def test_a_bare_loop_times_models_in_turn(tmp_path: Path) -> None:
    paths = [tmp_path / f"{depth}.onnx" for depth in (1, 100)]
    for path, depth in zip(paths, (1, 100), strict=True):
        onnx.save(FAMILIES["mlp"][0](depth), path)
    (median, best), (_, dear) = trials.bare(paths, 0.1)
    assert 0 < best <= median * 1.01 and dear > best
