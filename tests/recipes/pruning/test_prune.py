"""The whole of ``prune``, on the digits: targets met, masks, budgets, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxslim
from onnxslim.analysis.channels import Mask
from onnxslim.errors import BudgetError, OptionError
from onnxslim.model.edit import constant_value, replace_initializer
from onnxslim.recipes.pruning import prune as module
from tests.recipes.pruning.nets import feeds, small_net

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is measured in tests of its own."""
    monkeypatch.setattr(module._Work, "latency", lambda *given, **named: None)
    monkeypatch.setattr(module, "latency_fields", lambda measured: None)


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
    with pytest.raises(BudgetError, match="falls from"):
        prune(ratio=0.9, reconstruct=False, criterion="random", max_drop="0.000001")


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
