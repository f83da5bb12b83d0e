"""More bits where fewer are not accepted: as few more as will do."""

from __future__ import annotations

import math

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.measure.verify import verify
from onnxslim.model.io import serialized_size
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.recipes.candidates import Candidate
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.milder import Milder
from tests.models import proto
from tests.recipes.test_mixed_precision import spiked

PACKED = Candidate("packed weights", (PackWeights(),), essential="pack-weights")


def uneven() -> ir.Model:
    """Two products, the second with outliers in its weight that leave little of the rest in 8 bits."""
    source = proto("g (float[1, 64] x) => (float[1, 64] y) { a = MatMul(x, w1) y = MatMul(a, w2) }")
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(64, 64)).astype(np.float32) for name in ("w1", "w2")}
    weights["w2"][np.arange(64), np.arange(64)] = 60
    for name, array in weights.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def sqnr(model: ir.Model, other: ir.Model) -> float:
    feeds = [{"x": np.random.default_rng(i).normal(size=(1, 64)).astype(np.float32)} for i in range(3)]
    return verify(model, other, feeds, promise="lossy").sqnr_db


def types(model: ir.Model) -> set[str]:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return {tensor.dtype.name for tensor in tensors if tensor is not None and tensor.size > 1000}


@pytest.mark.parametrize(
    ("least", "stored"), [(25.0, {"INT8"}), (39.0, {"INT8", "FLOAT16"}), (50.0, {"FLOAT16"}), (300.0, None)]
)
def test_as_few_bits_as_are_accepted(least: float, stored: set[str] | None) -> None:
    model = uneven()
    milder = Milder(model, ())
    found = milder(PACKED, lambda form: sqnr(model, form) > least)
    if stored is None:
        assert found is None and milder.packing == (PackWeights(),)
        return
    assert found is not None and milder.packing == found.passes
    result = run_steps(model, found.passes).model
    assert types(result) == stored and sqnr(model, result) > least
    assert serialized_size(result) < 0.6 * serialized_size(model)


def test_the_mildest_is_half_precision_alone() -> None:
    model = uneven()
    found = Milder(model, ())(PACKED, lambda form: sqnr(model, form) > 50)
    assert found is not None and found.passes == (PackWeights(min_sqnr_db=math.inf), HalveWeights())


def test_a_dynamic_form_becomes_milder_as_a_static_one_does() -> None:
    model = spiked()
    feeds = [{"x": np.random.default_rng(i).normal(size=(1, 64, 128)).astype(np.float32)} for i in range(3)]
    steps = (QuantizeDynamic(),)
    found = Milder(model, feeds, packing=())(
        Candidate("dynamic int8", steps, essential="quantize-dynamic"),
        lambda form: verify(model, form, feeds, promise="lossy").sqnr_db > 25,
    )
    assert found is not None and found.name == "dynamic int8, the noisiest parts in float"
    assert found.essential == "quantize-dynamic"
