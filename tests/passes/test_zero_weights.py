"""Zeros in weights: how many, which, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model.edit import constant_value
from onnxslim.passes.base import collect_declines
from onnxslim.passes.zero_weights import ZeroWeights
from tests.recipes.pruning.nets import small_net


def arrays(model: ir.Model) -> dict[str, np.ndarray]:
    found = {name: constant_value(value) for name, value in model.graph.initializers.items()}
    return {name: array for name, array in found.items() if array is not None}


def test_the_smallest_half_goes() -> None:
    model = small_net()
    before = arrays(model)
    assert ZeroWeights(pattern="0.5")(model).modified
    for name in ("w1", "w2", "w3", "w4"):
        weight, old = arrays(model)[name], before[name]
        assert (weight == 0).sum() == weight.size // 2
        assert np.abs(old[weight == 0]).max() <= np.abs(old[weight != 0]).min()
        np.testing.assert_array_equal(weight[weight != 0], old[weight != 0])
    np.testing.assert_array_equal(arrays(model)["b1"], before["b1"])
    assert not ZeroWeights(pattern="0.5")(model).modified


def test_two_of_four_along_the_sum() -> None:
    model = small_net()
    before = arrays(model)
    ZeroWeights(pattern="2:4")(model)
    rows, old = (found["w1"].reshape(16, 18) for found in (arrays(model), before))
    blocks, olds = rows[:, :16].reshape(16, 4, 4), old[:, :16].reshape(16, 4, 4)
    assert ((blocks == 0).sum(axis=2) == 2).all()
    assert (np.abs(np.where(blocks == 0, olds, 0)).max(2) <= np.sort(np.abs(olds), axis=2)[:, :, 1] + 0).all()
    np.testing.assert_array_equal(rows[:, 16:], old[:, 16:])  # what is left over stays


def test_inputs_weigh_what_meets_them() -> None:
    model = small_net()
    norms = np.ones((1, 12))
    norms[0, 5] = 1e6
    before = arrays(model)["w4"]
    ZeroWeights(pattern="0.75", norms={"w4": norms})(model)
    np.testing.assert_array_equal(arrays(model)["w4"][:, 5], before[:, 5])


def test_random_zeros_are_those_of_the_seed() -> None:
    def zeros(seed: int) -> np.ndarray:
        model = small_net()
        ZeroWeights(pattern="0.3", by="random", seed=seed)(model)
        return arrays(model)["w3"] == 0

    np.testing.assert_array_equal(zeros(1), zeros(1))
    assert (zeros(1) != zeros(2)).any() and zeros(1).sum() == round(0.3 * 12 * 16)


def test_what_is_left_alone_says_why() -> None:
    model = small_net()
    before = arrays(model)
    with collect_declines() as log:
        ZeroWeights(pattern="2:16", exclude="w4")(model)
    reasons = {entry.node: entry.reason for entry in log.entries}
    assert reasons == {"w4": "excluded by the user", "w2": "it sums up 9 products, fewer than 16"}
    np.testing.assert_array_equal(arrays(model)["w2"], before["w2"])


@pytest.mark.parametrize("pattern", ["0", "1", "1.5", "-0.5", "4:4", "5:4", "0:4", "half", ""])
def test_patterns_that_make_no_sense(pattern: str) -> None:
    with pytest.raises(OptionError, match="no pattern of zeros"):
        ZeroWeights(pattern=pattern)
