"""More bits where fewer are not accepted: as few more as will do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.measure.verify import verify
from onnxslim.model.io import serialized_size
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.milder import Milder
from onnxslim.recipes.storage import Storage
from tests.models import proto
from tests.recipes.test_mixed_precision import spiked

FEEDS = [{"x": np.random.default_rng(i).normal(size=(1, 64)).astype(np.float32)} for i in range(3)]


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
    return verify(model, other, FEEDS, promise="lossy").sqnr_db


def packed(model: ir.Model) -> Candidate:
    storage = Storage(model, FEEDS)
    return Candidate("packed weights", (), storage.steps(20), essential="pack-weights", storage=storage)


def types(model: ir.Model) -> set[str]:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return {tensor.dtype.name for tensor in tensors if tensor is not None and tensor.size > 1000}


@pytest.mark.parametrize(
    ("least", "stored"),
    [
        (25.0, {"INT8", "UINT8"}),  # one of them in blocks
        (40.0, {"UINT8", "FLOAT16"}),
        (50.0, {"FLOAT16"}),
        (300.0, None),
    ],
)
def test_as_few_bits_as_are_accepted(least: float, stored: set[str] | None) -> None:
    model = uneven()
    milder = Milder(model, ())
    found = milder(packed(model), lambda form: sqnr(model, form) > least)
    if stored is None:
        assert found is None and milder.packing == ()
        return
    assert found is not None and milder.packing == found.packing
    result = run_steps(model, found.passes).model
    assert types(result) == stored and sqnr(model, result) > least
    assert serialized_size(result) < 0.6 * serialized_size(model)


def test_what_makes_inputs_and_outputs_integers_comes_last() -> None:
    model = uneven()
    ports = (RaiseOpset(),)
    found = Milder(model, ())(replace(packed(model), ports=ports), lambda form: True)
    assert found is not None and found.passes[-1] is ports[0] and found.ports == ports


def test_what_has_no_milder_form() -> None:
    assert Milder(uneven(), ())(Candidate("simplified only", ()), lambda form: True) is None


def test_a_dynamic_form_becomes_milder_as_a_static_one_does() -> None:
    model = spiked()
    feeds = [{"x": np.random.default_rng(i).normal(size=(1, 64, 128)).astype(np.float32)} for i in range(3)]
    found = Milder(model, feeds)(
        Candidate("dynamic int8", (QuantizeDynamic(),), essential="quantize-dynamic"),
        lambda form: verify(model, form, feeds, promise="lossy").sqnr_db > 25,
    )
    assert found is not None and found.name == "dynamic int8, the noisiest parts in float"
    assert found.essential == "quantize-dynamic"
