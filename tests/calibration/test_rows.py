"""Sampled rows against what onnxruntime multiplies: rows times weight is the output at the same positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.rows import collect
from onnxslim.ops.linear import transposed_linear
from tests.models import proto


def session(text: str) -> Any:
    return ort.InferenceSession(proto(text).SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("limit", [7, 10_000])
@pytest.mark.parametrize(
    ("attributes", "channels", "groups", "window"),
    [
        ("group = 1", 4, 1, {}),
        ("strides = [2, 1], pads = [1, 0, 0, 1]", 4, 1, {"strides": [2, 1], "pads": [1, 0, 0, 1]}),
        ("group = 2, dilations = [1, 2]", 4, 2, {"dilations": [1, 2], "groups": 2}),
        ('auto_pad = "SAME_UPPER", strides = [2, 2]', 4, 1, {"same": "SAME_UPPER", "strides": [2, 2]}),
    ],
)
def test_rows_times_weight_is_the_output(
    attributes: str, channels: int, groups: int, window: dict[str, Any], limit: int
) -> None:
    text = f"""g (float[2,{channels},9,8] x, float[6,{channels // groups},3,3] w)
        => (float[a,b,c,d] y, float[e,f,g,h] r)
        {{ r = Relu(x)  y = Conv<{attributes}>(r, w) }}"""
    random = np.random.default_rng(0)
    weight = random.normal(size=(6, channels // groups, 3, 3)).astype(np.float32)
    feed = {"x": random.normal(size=(2, channels, 9, 8)).astype(np.float32), "w": weight}
    shared = {"limit": limit, "seed": [1, 2]}
    [[rows, outputs]] = collect(
        session(text),
        [feed],
        [
            {"output": "r", "window": {"kernel": [3, 3], **window}, **shared},
            {"output": "y", "axis": 1, **shared},
        ],
    )
    assert len(rows) == len(outputs) <= limit
    each = rows.reshape(len(rows), groups, -1).swapaxes(0, 1)
    matrix = weight.reshape(groups, 6 // groups, -1).swapaxes(1, 2)
    expected = (each @ matrix).swapaxes(0, 1).reshape(len(rows), 6)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "strides = [2, 3]",
        "strides = [2, 2], pads = [1, 0, 2, 1], output_padding = [1, 0]",
        "dilations = [2, 1], strides = [1, 2], pads = [0, 1, 1, 0]",
    ],
)
def test_a_transposed_convolution_is_a_product_too(attributes: str) -> None:
    text = f"""g (float[2,4,5,6] x, float[4,3,3,2] w) => (float[a,b,c,d] y, float[e,f,g,h] r)
        {{ r = Relu(x)  y = ConvTranspose{f"<{attributes}>" if attributes else ""}(r, w) }}"""
    node = proto(text).graph.node[1]
    linear = transposed_linear(ir.serde.deserialize_node(node), (4, 3, 3, 2))
    assert linear is not None
    random = np.random.default_rng(0)
    weight = random.normal(size=(4, 3, 3, 2)).astype(np.float32)
    feed = {"x": random.normal(size=(2, 4, 5, 6)).astype(np.float32), "w": weight}
    fields = ("kernel", "pads", "dilations", "spread")
    shared = {"limit": 10_000, "seed": [1, 2]}
    wanted = [
        {"output": "r", "window": {name: list(getattr(linear, name)) for name in fields}, **shared},
        {"output": "y", "axis": 1, **shared},
    ]
    [[rows, outputs]] = collect(session(text), [feed], wanted)
    assert len(rows) == len(outputs) > 90
    np.testing.assert_allclose(outputs, rows @ linear.matrix(weight)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(linear.weight_of(linear.matrix(weight), weight.shape), weight)


@pytest.mark.parametrize(
    "attributes", ["group = 2", 'auto_pad = "SAME_UPPER"', "output_shape = [9, 9]", "pads = [3, 0, 0, 0]"]
)
def test_other_transposed_convolutions_are_left_alone(attributes: str) -> None:
    node = proto(f"g (float[1,4,5,6] x, float[4,3,3,2] w) => (float[a,b,c,d] y) "
                 f"{{ y = ConvTranspose<{attributes}>(x, w) }}").graph.node[0]  # fmt: skip
    assert transposed_linear(ir.serde.deserialize_node(node), (4, 3, 3, 2)) is None


def test_rows_of_matrices_and_of_inputs() -> None:
    text = "g (float[2,5,3] x, float[3,4] w) => (float[2,5,4] y) { y = MatMul(x, w) }"
    random = np.random.default_rng(0)
    feed = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in (("x", (2, 5, 3)), ("w", (3, 4)))
    }
    shared = {"limit": 4, "seed": [0]}
    [[rows, outputs]] = collect(
        session(text),
        [feed],
        [{"output": "x", "window": None, **shared}, {"output": "y", "axis": -1, **shared}],
    )
    assert rows.shape == (4, 3)
    np.testing.assert_allclose(outputs, rows @ feed["w"], rtol=1e-5, atol=1e-5)


def test_the_same_seed_takes_the_same_rows() -> None:
    from onnxslim.calibration.rows import output_rows

    values = np.arange(60.0).reshape(1, 3, 20)
    first, again, other = (output_rows(values, 1, 5, [seed]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
