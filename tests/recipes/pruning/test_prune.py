"""The whole of ``prune``, on the digits: targets met, masks, budgets, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxslim
from onnxslim.analysis.channels import Mask
from onnxslim.errors import BudgetError, OptionError
from onnxslim.model.edit import constant_value, replace_initializer
from onnxslim.recipes.opened import Opened
from tests.models import proto
from tests.recipes.pruning.nets import feeds, small_net

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is measured in tests of its own."""
    monkeypatch.setattr(Opened, "latency", lambda *given, **named: None)
    monkeypatch.setattr("onnxslim.recipes.opened.latency_fields", lambda measured: None)


def data(count: int = 40) -> dict[str, np.ndarray]:
    return {"x": np.concatenate([feed["x"] for feed in feeds(count)])}


def prune(**given: Any) -> Any:
    return onnxslim.prune(small_net(), data(), multiple=1, **given)


def test_digits_lose_little_at_a_quarter_of_the_products() -> None:
    result = onnxslim.prune(
        EXAMPLES / "digits.onnx",
        EXAMPLES / "calibration.npz",
        test=EXAMPLES / "test.npz",
        metric="top1",
        criterion="l1",
        target_macs="0.25x",
        allocation="uniform",
        samples=64,
    )
    metric, ratio = result.report.metric, result.report.ratio("macs")
    assert metric is not None and metric["after"] > metric["before"] - 0.05
    assert ratio is not None and 0.15 < ratio <= 0.25


def test_a_vector_that_layers_share_by_chance_ties_no_channels() -> None:
    """Two layers with the same zero bias: their channels go one by one, and equal vectors are one again."""
    text = """g (float[N,4] x) => (float[N,2] y) { a = Gemm(x, u, z) b = Relu(a) c = Gemm(b, v, z) d = Relu(c)
        e = Gemm(d, w, o) f = Gemm(e, r, o) y = Gemm(f, q) }"""
    shapes = {"u": (4, 8), "v": (8, 8), "w": (8, 2), "r": (2, 2), "q": (2, 2)}
    random = np.random.default_rng(0)
    stored = {name: random.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    model = proto(text, opset=17)
    for name, array in {**stored, "z": np.zeros(8, "f4"), "o": np.zeros(2, "f4")}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    result = onnxslim.prune(
        model, {"x": random.standard_normal((8, 4)).astype("f4")}, ratios={"u": 0.5}, ratio=0.0,
        multiple=1, reconstruct=False, criterion="l1",
    )  # fmt: skip
    kept = {name: value.shape for name, value in result.model.graph.initializers.items()}
    assert kept["u"] == (4, 4) and kept["v"] == (4, 8)
    assert sum(shape == (2,) for shape in kept.values()) == 1


@pytest.mark.parametrize("target", ["target_macs", "target_params", "target_bytes"])
def test_targets_are_met(target: str) -> None:
    result = prune(**{target: "0.7x"})
    ratio = result.report.ratio(target.removeprefix("target_"))
    assert ratio is not None and 0.5 < ratio <= 0.7


def test_a_target_out_of_reach_is_an_error() -> None:
    with pytest.raises(BudgetError, match="with all that may go"):
        prune(target_macs="0.001x")


def test_a_mask_gives_the_same_model_again(tmp_path: Path) -> None:
    first = prune(ratio=0.4)
    assert first.mask.remove
    first.mask.save(tmp_path / "mask.json")
    again = prune(mask=tmp_path / "mask.json")
    for name, value in first.model.graph.initializers.items():
        a, b = constant_value(value), constant_value(again.model.graph.initializers[name])
        assert a is not None and b is not None
        np.testing.assert_array_equal(a, b)


def test_masks_of_others_are_refused() -> None:
    with pytest.raises(OptionError, match="other weights"):
        prune(mask=Mask({}, "0" * 64))
    with pytest.raises(OptionError):
        prune(mask=Mask({"nothing": (0,)}))


def test_a_budget_may_say_no() -> None:
    with pytest.raises(BudgetError, match="a sixteenth of the saving"):
        prune(ratio=0.9, reconstruct=False, criterion="random", max_drop="0.0000001")


@pytest.mark.parametrize("target", [{"ratio": 0.9}, {"target_macs": "0.2x"}, {"target_params": "200"}])
def test_less_goes_where_too_much_would_be_lost(target: dict[str, Any]) -> None:
    """Half of the first channels are copies: a budget allows as much, whatever was asked for."""
    free, kept = prune(**target), prune(**target, max_drop="0.0001")
    metric = kept.report.metric
    assert metric["after"] >= metric["before"] - 0.0001 > free.report.metric["after"]
    assert free.report.ratio("params") < kept.report.ratio("params") < 1
    assert any("of the saving was taken, judged by held-out inputs" in note for note in kept.report.notes)
    assert not any("of the saving" in note for note in prune(ratio=0.1, max_drop="0.5").report.notes)


def test_shares_that_were_given_are_not_made_milder() -> None:
    with pytest.raises(BudgetError, match="falls from"):
        prune(ratios={"w3": 0.9}, reconstruct=False, max_drop="0.0000001")


def test_a_metric_of_ones_own_is_said_to_have_been_looked_at(tmp_path: Path) -> None:
    size = tmp_path / "size.py"
    size.write_text("import os\n\ndef left(path):\n    return os.path.getsize(path) / 1e3\n")
    result = prune(ratio=0.8, metric=f"{size}:left", max_drop="25%")
    assert result.report.metric["after"] >= 0.75 * result.report.metric["before"]
    assert any("the metric, which was looked at" in note for note in result.report.notes)


def test_fewer_weights_become_zero_where_too_much_would_be_lost() -> None:
    result = prune(granularity="weight", sparsity=0.9, max_drop="0.01")
    weight = constant_value(result.model.graph.initializers["w3"])
    assert weight is not None and 0 < (weight == 0).mean() < 0.9


def test_steps_go_one_after_the_other_and_make_one_mask() -> None:
    once, twice = prune(target_macs="0.4x"), prune(target_macs="0.4x", steps=2)
    assert twice.report.ratio("macs") <= 0.4
    again = prune(mask=Mask(twice.mask.remove))
    for name, value in twice.model.graph.initializers.items():
        a, b = constant_value(value), constant_value(again.model.graph.initializers[name])
        assert a is not None and b is not None
        np.testing.assert_array_equal(a, b)
    assert once.report.ratio("macs") <= 0.4
    shares = [
        prune(ratio=0.5, steps=steps, allocation="uniform").report.ratio("params") for steps in (1, 2, 4)
    ]
    assert max(shares) - min(shares) < 0.1


def test_protected_groups_keep_all() -> None:
    result = prune(ratio=0.5, protect=["w1"])
    assert result.model.graph.initializers["w1"].shape == (16, 2, 3, 3)
    reasons = {entry.reason for entry in result.report.declined}
    assert "protected by the user" in reasons
    assert result.model.graph.initializers["w4"].shape[1] < 12


def test_a_share_of_its_own() -> None:
    result = prune(ratios={"w3": 0.5})
    assert result.model.graph.initializers["w3"].shape == (6, 16, 1, 1)
    assert result.model.graph.initializers["w1"].shape == (16, 2, 3, 3)


def test_no_data_is_said() -> None:
    result = onnxslim.prune(small_net(), ratio=0.3, multiple=1)
    assert any("random inputs" in note for note in result.report.notes)
    assert result.report.ratio("params") < 1


def test_reconstruction_can_be_left_out() -> None:
    bare, fitted = prune(ratio=0.5, reconstruct=False), prune(ratio=0.5)
    noise = [r.report.verification["outputs"][0]["sqnr_db"] for r in (bare, fitted)]
    assert noise[1] > noise[0] + 3


@pytest.mark.parametrize("criterion", ["l1", "random", "sparsity", "wanda"])
def test_single_weights_become_zero(criterion: str) -> None:
    result = prune(granularity="weight", sparsity=0.5, criterion=criterion)
    weight = constant_value(result.model.graph.initializers["w3"])
    assert weight is not None and (weight == 0).mean() == 0.5
    assert any("save no time" in note for note in result.report.notes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing says how much"),
        ({"ratio": 0.3, "target_macs": "0.5x"}, "only one thing"),
        ({"ratio": 1.0}, "between 0 and 1"),
        ({"ratio": 0.3, "criterion": "taylor"}, "no criterion"),
        ({"sparsity": 0.5}, "single weights"),
        ({"granularity": "weight"}, "needs --sparsity"),
        ({"granularity": "weight", "sparsity": 0.5, "criterion": "obs"}, "ranks channels"),
        ({"granularity": "weight", "sparsity": 0.5, "ratio": 0.5}, "--sparsity alone"),
        ({"granularity": "weight", "sparsity": "4:2"}, "no pattern"),
        ({"target_macs": "lots"}, "--target-macs"),
        ({"mask": "/nowhere.json"}, "cannot be read"),
        ({"ratio": 0.3, "steps": 0}, "in 0 steps"),
        ({"ratio": 0.3, "granularity": "block", "steps": 2}, "in 2 steps"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        prune(**given)


def test_what_is_zero_goes_for_free() -> None:
    model = small_net()
    for name in ("w1", "b1", "w2", "b2"):
        array = constant_value(model.graph.initializers[name])
        assert array is not None
        copy = array.copy()
        copy[[2, 5]] = 0
        replace_initializer(model.graph.initializers[name], copy)
    result = onnxslim.prune(model, data(), criterion="sparsity", multiple=1)
    assert result.model.graph.initializers["w1"].shape == (14, 2, 3, 3)
    assert result.report.verification["outputs"][0]["sqnr_db"] > 60
    assert onnxslim.prune(small_net(), data(), criterion="sparsity", multiple=1).mask.remove == {}


def test_the_callers_model_stays() -> None:
    model = small_net()
    before = {name: value.shape for name, value in model.graph.initializers.items()}
    onnxslim.prune(model, data(), ratio=0.5, multiple=1)
    assert {name: value.shape for name, value in model.graph.initializers.items()} == before
