"""Signs in front of products: what the runtime computes, what is shared, what is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.passes.base import collect_declines
from onnxslim.passes.binarize_activations import BinarizeActivations
from onnxslim.reconstruct.signs import Levels
from tests.models import proto, run
from tests.passes.test_codebook_weights import built

LEVELS = Levels(-0.25, 1.5)
TEXT = """g (float[3,8] x) => (float[3,4] y, float[3,4] z, float[3,8] s)
    { s = Relu(x) y = MatMul(s, v) z = Gemm(s, w, b) }"""


def values(seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(3, 8)).astype(np.float32)
    found[0, 0] = LEVELS.threshold
    return found


def signed(x: np.ndarray) -> np.ndarray:
    """One by one."""
    relu = np.maximum(x, 0)
    return np.array([[1.5 if each > 0.625 else -0.25 for each in row] for row in relu], np.float32)


@pytest.mark.parametrize("opset", [9, 13, 17, 21])
def test_the_product_reads_two_values(opset: int) -> None:
    model = built(TEXT, opset, v=(8, 4), w=(8, 4), b=np.zeros(4))
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
    before = run(model, {"x": values()})
    assert BinarizeActivations({"y": LEVELS})(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    y, z, s = run(model, {"x": values()})
    np.testing.assert_allclose(y, signed(values()) @ weights["v"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(z, before[1])
    np.testing.assert_array_equal(s, before[2])
    assert not BinarizeActivations({"y": LEVELS})(model).modified, "a second time there is nothing to do"


def test_products_of_one_value_share_the_nodes() -> None:
    model = built(TEXT, v=(8, 4), w=(8, 4), b=np.zeros(4))
    assert BinarizeActivations({"y": LEVELS, "z": LEVELS})(model).modified
    assert [node.op_type for node in model.graph] == ["Relu", "Greater", "Where", "MatMul", "Gemm"]
    other = built(TEXT, v=(8, 4), w=(8, 4), b=np.zeros(4))
    BinarizeActivations({"z": LEVELS, "y": Levels(0.0, 1.0)})(other)
    assert [node.op_type for node in other.graph].count("Where") == 2
    y, z, _ = run(other, {"x": values()})
    assert np.isfinite(y).all() and np.isfinite(z).all()


def test_an_input_of_the_model_is_read_as_signs() -> None:
    model = built("g (float[2,1,6,6] x) => (float[2,4,4,4] y) { y = Conv(x, w) }", w=(4, 1, 3, 3))
    x = np.random.default_rng(0).normal(size=(2, 1, 6, 6)).astype(np.float32)
    [wanted] = run(model, {"x": LEVELS.quantize(x)})
    assert BinarizeActivations({"y": LEVELS})(model).modified
    np.testing.assert_allclose(run(model, {"x": x})[0], wanted, rtol=1e-5, atol=1e-6)
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_what_is_left_alone() -> None:
    model = built(TEXT, v=(8, 4), w=(8, 4), b=np.zeros(4))
    with collect_declines() as log:
        assert not BinarizeActivations({"s": LEVELS, "nowhere": LEVELS})(model).modified
    assert [(entry.node, "no product" in entry.reason) for entry in log.entries] == [("s", True), ("nowhere", True)]
    double = proto("g (double[3,8] x, double[8,4] w) => (double[3,4] y) { y = MatMul(x, w) }")
    assert not BinarizeActivations({"y": LEVELS})(ir.from_proto(double)).modified
    old = built(TEXT, 8, v=(8, 4), w=(8, 4), b=np.zeros(4))
    with collect_declines() as log:
        assert not BinarizeActivations({"y": LEVELS})(old).modified
    assert "opset 8" in log.entries[0].reason
    assert not BinarizeActivations()(old).modified


def test_a_selection_that_is_in_the_model_already_is_no_sign() -> None:
    """What reads a Where of other values gets signs of its own."""
    text = "g (bool[3,8] c, float[3,8] x) => (float[3,4] y) { a = Where(c, x, x) y = MatMul(a, v) }"
    model = built(text, v=(8, 4))
    assert BinarizeActivations({"y": LEVELS})(model).modified
