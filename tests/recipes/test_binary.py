"""Signs fitted in order: nearer to the original's outputs, what the passes write is what was fitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OptionError
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import Pass
from onnxslim.passes.binarize_weights import BinarizeWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.replace_weights import ReplaceWeights
from onnxslim.recipes.binary import Signs
from onnxslim.recipes.candidates import candidates, parse_weights
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.few_bits import Moments, binary_weights
from onnxslim.recipes.integer_signs import integer_signs
from onnxslim.recipes.weight_forms import weight_forms
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import bit_equal, run
from tests.passes.test_few_bits import NET, built

WEIGHTS = {"w1": (32, 16, 3, 3), "w2": (64, 32, 1, 1), "w3": (128, 64), "w4": (128, 40)}


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return built(NET, **WEIGHTS)


def inputs(count: int, seed: int) -> list[dict[str, Any]]:
    """Images whose channels are mixed, as those of real networks are."""
    rng = np.random.default_rng(7)
    mixing = rng.normal(size=(16, 16)) / 4
    rng = np.random.default_rng(seed)
    images = np.einsum("nchw,cd->ndhw", rng.normal(size=(count, 16, 14, 14)), mixing).astype(np.float32)
    return [{"x": image[None]} for image in images]


def quality(model: ir.Model, steps: tuple[Pass, ...]) -> float:
    """Signal to noise on inputs that nothing was fitted to."""
    result = run_steps(model, steps).model
    pairs = [(run(model, feed)[0], run(result, feed)[0]) for feed in inputs(16, 99)]
    one, other = (np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True))
    return sqnr_db(one, other)


def test_each_fit_brings_the_outputs_nearer(model: ir.Model) -> None:
    names = ("w1", "w2", "w3", "w4")
    signs = Signs(model, inputs(96, 0), 2)
    one, two = signs.forms()
    assert (one.bases, two.bases) == (1, 2) and set(one.known) == set(names)
    plain = quality(model, (BinarizeWeights(bases=2, min_sqnr_db=0.0),))
    alone = quality(model, (two,))
    ordered = quality(model, signs.refit((replace(two, only=names),)))
    assert plain < alone < ordered and ordered > plain + 3


def test_other_forms_and_biases_are_fitted_along(model: ir.Model) -> None:
    signs = Signs(model, inputs(96, 0), 1)
    [one] = signs.forms()
    chosen = (replace(one, only=("w1", "w3")), PackWeights(only=("w2", "w4")))
    steps = signs.refit(chosen)
    assert isinstance(steps[0], ReplaceWeights) and set(steps[0].weights) <= {"w2", "w4"}
    assert steps[0].biases.keys() >= {"a", "h"} and "y" not in steps[0].biases, "a MatMul adds none"
    assert signs.refit(chosen) is steps, "the same choice is fitted once"
    assert quality(model, steps) > quality(model, chosen) + 1
    written = run_steps(model, steps).model
    for name in ("w1", "w3"):
        assert steps[1].known[name].decode().shape == WEIGHTS[name]  # type: ignore[attr-defined]
        assert name not in written.graph.initializers
    assert all(each in model.graph.initializers for each in WEIGHTS), "the model stays as it is"


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("wrong", [0.0, np.nan, np.inf])
def test_inputs_that_tell_nothing_leave_the_weight_alone_to_go_by(model: ir.Model, wrong: float) -> None:
    feeds = [{"x": np.full((1, 16, 14, 14), wrong, np.float32)}] * 8
    signs = Signs(model, feeds, 1)
    [one] = signs.forms()
    steps = signs.refit((replace(one, only=("w1", "w2", "w3", "w4")),))
    plain = BinarizeWeights(bases=1, min_sqnr_db=0.0).stored(model)
    for name, form in steps[1].known.items():  # type: ignore[attr-defined]
        np.testing.assert_array_equal(form.decode(), plain[name].decode())
    assert all(np.isfinite(bias).all() for bias in steps[0].biases.values())  # type: ignore[attr-defined]


def test_they_are_proposed_and_explained(model: ir.Model) -> None:
    found = candidates(
        model, None, mode="weight-only", weights="binary:2", data=inputs(48, 0), feeds=inputs(8, 50)
    )
    [binary] = [each for each in found if each.essential == BinarizeWeights.name]
    assert binary.storage is not None
    entries = weight_forms(model, binary)
    assert {entry["weight"] for entry in entries} <= set(WEIGHTS) and entries
    assert any(entry["bases"] == 1 and 1 < entry["bits"] < 2 for entry in entries)
    cleaner = replace(binary, packing=binary.storage.steps(30.0))
    assert sum(e["bytes"] for e in weight_forms(model, cleaner)) > sum(e["bytes"] for e in entries)
    assert any(entry["why"] for entry in weight_forms(model, cleaner))
    assert weight_forms(model, next(each for each in found if each.name == "packed weights")) == []


def test_without_data_there_is_nothing_to_fit_to(model: ir.Model) -> None:
    found = candidates(model, None, mode="weight-only", weights="binary", feeds=inputs(4, 1))
    assert all(each.essential != BinarizeWeights.name for each in found)


@pytest.mark.parametrize("text", ["binary:0", "binary:5", "binary:x", "int4:2", "trinary", "binary:"])
def test_types_of_weights_that_there_are_not(text: str) -> None:
    with pytest.raises(OptionError):
        parse_weights(text)


def test_weights_and_biases_are_replaced_where_they_fit(model: ir.Model) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=WEIGHTS["w3"]).astype(np.float32)
    bias = rng.normal(size=32).astype(np.float32)
    step = ReplaceWeights({"w3": weight, "w2": weight}, {"a": bias, "h": bias})
    outcome = run_steps(model, (step,))
    assert len(outcome.declined) == 2
    result, feed = outcome.model, inputs(1, 3)[0]
    assert bit_equal(result.graph.initializers["w3"].const_value.numpy(), weight)  # type: ignore[union-attr]
    shifted = np.maximum(run(built_up_to_a(model), feed)[0] + bias.reshape(1, -1, 1, 1), 0)
    np.testing.assert_allclose(run(built_up_to_a(result, "r"), feed)[0], shifted, rtol=1e-5, atol=1e-5)
    assert not step(result.clone()).modified, "a second time there is nothing to do"


def built_up_to_a(model: ir.Model, name: str = "a") -> ir.Model:
    from onnxslim.analysis.extract import extract

    return extract(model, [name])[0]


def test_integer_kernels_keep_their_speed_with_signs_in_the_file(model: ir.Model) -> None:
    feeds = inputs(48, 0)
    quantize = QuantizeStatic(calibrate(model, feeds), placement="all")
    [binary] = binary_weights(model, 2, feeds, Moments(), inputs(8, 50))
    found = integer_signs(binary, quantize)
    result = run_steps(model, found.passes).model
    plain = run_steps(model, (quantize,)).model
    assert executed(result).histogram == executed(plain).histogram
    assert serialized_size(result) < 0.6 * serialized_size(plain)
    assert found.storage is not None
    qualities = [quality(model, (*found.head, *found.storage.steps(level))) for level in (-18.0, 30.0)]
    assert qualities[0] > 2 and qualities[1] > qualities[0] + 6
    floats = quality(model, (*binary.head, *binary.storage.steps(30.0)))  # type: ignore[union-attr]
    assert qualities[1] > floats - 6, "whole-numbered scales and activations of 8 bits cost little more"
