"""Raised operator sets: equal outputs, weights untouched."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes.base import collect_declines
from onnxslim.passes.raise_opset import RaiseOpset
from tests.models import model, run


def test_operators_that_changed_compute_the_same() -> None:
    built = model(
        """<ir_version: 4, opset_import: ["" : 9]>
        g (float[2,3,4] x, float[3,4] w) => (float[2,3,4] y) <float[3,4] w = {1,2,3,4,5,6,7,8,9,10,11,12}> {
            a = Add(x, w)
            s = Softmax(a)
            u = Unsqueeze <axes=[0]> (s)
            y = Squeeze <axes=[0]> (u)
        }"""
    )
    converted = built.clone()
    assert RaiseOpset()(converted).modified
    onnx.checker.check_model(ir.to_proto(converted))
    assert converted.opset_imports[""] == 13
    feed = {"x": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
    np.testing.assert_allclose(run(converted, feed)[0], run(built, feed)[0], rtol=1e-6)
    assert not RaiseOpset()(converted).modified


def test_large_weights_are_kept_as_they_are() -> None:
    built = model('<ir_version: 4, opset_import: ["" : 9]> g (float[64] x) => (float[64] y) { y = Relu(x) }')
    node = next(iter(built.graph))
    weight = edit.add_initializer(built.graph, np.arange(64 * 64, dtype=np.float32).reshape(64, 64), "w")
    product = ir.node("MatMul", [built.graph.inputs[0], weight])
    product.outputs[0].name = "p"
    built.graph.insert_before(node, [product])
    node.replace_input_with(0, product.outputs[0])
    before = weight.const_value
    assert RaiseOpset()(built).modified
    assert built.graph.initializers["w"].const_value is before
    assert run(built, {"x": np.ones(64, np.float32)})[0].shape == (64,)


def test_declined() -> None:
    built = model('<ir_version: 4, opset_import: ["" : 9]> g (float[64] x) => (float[64] y) { y = Relu(x) }')
    next(iter(built.graph)).op_type = "NoSuchOperator"
    with collect_declines() as log:
        assert not RaiseOpset()(built).modified
    assert "cannot be converted to 13" in log.entries[0].reason


def test_options() -> None:
    with pytest.raises(OptionError, match="opset"):
        RaiseOpset(opset=0)
