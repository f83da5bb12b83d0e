"""Weights in half precision: half of the bytes, the same kernels, the numbers that float16 holds."""

from __future__ import annotations

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import collect_declines
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.runtime.kernels import executed
from tests.models import proto, run


def made(scale: float = 1.0, opset: int = 17) -> ir.Model:
    source = proto("g (float[2, 64] x) => (float[2, 64] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }", opset=opset)
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) * scale
    source.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(source)


@pytest.mark.parametrize("opset", [7, 13, 21])
def test_half_of_the_bytes_and_the_same_kernels(opset: int) -> None:
    before, after = made(opset=opset), made(opset=opset)
    assert HalveWeights()(after).modified and not HalveWeights()(after).modified
    assert serialized_size(after) < 0.55 * serialized_size(before)
    for level in ("basic", "all"):
        assert executed(after, optimize=level).histogram == executed(before, optimize=level).histogram  # type: ignore[arg-type]


def test_the_numbers_are_those_of_float16() -> None:
    after, rounded = made(), made()
    HalveWeights()(after)
    tensor = rounded.graph.initializers["w"].const_value
    assert tensor is not None
    x = {"x": np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)}
    source = ir.to_proto(rounded)
    source.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(tensor.numpy().astype(np.float16).astype(np.float32), "w")
    )
    np.testing.assert_array_equal(run(after, x)[0], run(source, x)[0])


def test_a_tied_weight_is_stored_once() -> None:
    after = made()
    HalveWeights()(after)
    assert [node.op_type for node in after.graph] == ["Cast", "MatMul", "Relu", "MatMul"]
    assert len(after.graph.initializers) == 1


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_what_half_precision_cannot_hold_stays(scale: float) -> None:
    source = made(scale)
    with collect_declines() as log:
        assert not HalveWeights()(source).modified
    assert "16 bits would leave" in log.entries[0].reason


def test_small_weights_and_excluded_ones_stay() -> None:
    tiny = ir.from_proto(proto("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }"))
    assert not HalveWeights()(tiny).modified
    assert not HalveWeights(exclude="v,w*")(made()).modified
    with pytest.raises(OptionError):
        HalveWeights(min_sqnr_db=-1)
