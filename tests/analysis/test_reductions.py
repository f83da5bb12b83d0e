"""Along which axes weights are summed up, against the shapes of the operators' specification."""

from __future__ import annotations

import pytest

from onnxslim.analysis.reductions import Reduction, product_inputs, reduction_of
from tests.models import model


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        ("y = MatMul(x, w)", (64, 10), Reduction(1, 64, 10, ("x",))),
        ("y = MatMul(x, w)", (3, 64, 10), Reduction(3, 64, 10)),  # three products: their inputs differ
        ("y = MatMul(w, x)", (10, 64), Reduction(10, 64, 1)),
        ("y = Gemm <transB=1> (x, w)", (10, 64), Reduction(10, 64, 1, ("x",))),
        ("y = Gemm(x, w)", (64, 10), Reduction(1, 64, 10, ("x",))),
        ("y = Conv(x, w)", (8, 4, 3, 3), Reduction(8, 36, 1)),
        ("y = Conv(x, w)", (8, 4, 1, 1), Reduction(8, 4, 1, ("x",))),
        ("y = ConvTranspose(x, w)", (32, 8, 2, 2), Reduction(1, 32, 32)),
        ("y, a, b = LSTM(x, w, r)", (2, 32, 6), Reduction(64, 6, 1)),
        ("y = Gather(w, i)", (100, 16), Reduction(100, 16, 1)),
        ("a = MatMul(x, w) b = MatMul(z, w) y = Add(a, b)", (64, 10), Reduction(1, 64, 10, ("x", "z"))),
        ("a = MatMul(x, w) b = Add(w, w) y = MatMul(a, b)", (64, 10), Reduction(1, 64, 10)),
    ],
)
def test_reduction(text: str, shape: tuple[int, ...], expected: Reduction) -> None:
    graph = model(f"g (float x, float z, float w, float r, int64 i) => (float y) {{ {text} }}").graph
    weight = next(value for value in graph.inputs if value.name == "w")
    assert reduction_of(weight, shape) == expected


def test_inputs_of_a_model() -> None:
    text = """g (float[2,4] x) => (float[2,3] y)
        <float[4,4] v = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, float[4,3] w = {1,1,1,1,1,1,1,1,1,1,1,1}>
        { a = MatMul(x, v) y = MatMul(a, w) }"""
    assert product_inputs(model(text)) == {"x": 4, "a": 4}
