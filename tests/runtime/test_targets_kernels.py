"""Every operator of every measured table becomes its kernel in onnxruntime, and computes what it should."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from onnxslim.measure.costs.sketch import Sketch
from onnxslim.runtime.kernels import executed
from onnxslim.runtime.targets.load import load_target, target_names
from onnxslim.runtime.targets.target import Fusion, Target
from onnxslim.runtime.targets.work import Work

STEP = 0.05  # of the quantizers in a sketch

Build = Callable[[Sketch, Target, Fusion], None]


def reference(model: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Each operator by itself, in numpy; that has conversions from opset 19 on."""
    proto = onnx.load_from_string(model)
    proto.opset_import[0].version = 19
    return list(ReferenceEvaluator(proto).run(None, feed))


def conv(sketch: Sketch, target: Target, fusion: Fusion, activation: str | None = "Relu") -> str:
    x = sketch.input(1, 24, 9, 9)
    weight = (24, 1, 3, 3) if fusion.depthwise else (40, 24, 3, 3)
    return sketch.node(
        fusion,
        [x],
        (1, weight[0], 9, 9),
        weight=weight,
        bias=True,
        attributes={"pads": [1] * 4, "group": 24 // weight[1]},
        activation=activation,
    )


def behind_conv(sketch: Sketch, target: Target, fusion: Fusion) -> None:
    """What needs an integer convolution in front of it to find its layout."""
    first = target.fusion("Conv")
    assert first is not None
    value = conv(sketch, target, first)
    attributes = {} if fusion.op_type.startswith("Global") else {"kernel_shape": [2, 2], "strides": [2, 2]}
    shape = (1, 40, 1, 1) if fusion.op_type.startswith("Global") else (1, 40, 4, 4)
    sketch.node(fusion, [value], shape, attributes=attributes)


def gemm(sketch: Sketch, target: Target, fusion: Fusion) -> None:
    x = sketch.input(5, 48)
    sketch.node(fusion, [x], (5, 20), weight=(20, 48), bias=True, attributes={"transB": 1})


def matmul(sketch: Sketch, target: Target, fusion: Fusion) -> None:
    x = sketch.input(2, 5, 48)
    sketch.node(fusion, [x], (2, 5, 20), weight=(48, 20), channel_axis=1)


def of_two(sketch: Sketch, target: Target, fusion: Fusion) -> None:
    values = [sketch.input(1, 8, 5, 5), sketch.input(1, 8, 5, 5)]
    total = 16 if fusion.op_type == "Concat" else 8
    attributes = {"axis": 1} if fusion.op_type == "Concat" else {}
    sketch.node(fusion, values, (1, total, 5, 5), attributes=attributes)


def of_one(sketch: Sketch, target: Target, fusion: Fusion) -> None:
    sketch.node(fusion, [sketch.input(1, 8, 5, 5)], (1, 8, 5, 5))


def moved(sketch: Sketch, target: Target, fusion: Fusion) -> None:
    x = sketch.input(1, 8, 6, 5)
    match fusion.op_type:
        case "Transpose":
            sketch.node(fusion, [x], (1, 6, 5, 8), attributes={"perm": [0, 2, 3, 1]})
        case "Flatten":
            sketch.node(fusion, [x], (1, 240))
        case "Slice":
            bounds = [np.array([n], np.int64) for n in (1, 4, 2)]
            sketch.node(fusion, [x], (1, 8, 3, 5), constants=bounds)
        case _:
            sketch.node(fusion, [x], (1, 8, 30), constants=[np.array([1, 8, 30], np.int64)])


BUILDS: dict[str, Build] = {
    "Conv": lambda s, t, f: conv(s, t, f) and None,
    "Conv, depthwise": lambda s, t, f: conv(s, t, f) and None,
    "Gemm": gemm,
    "MatMul": matmul,
    **dict.fromkeys(("Add", "Concat"), of_two),
    **dict.fromkeys(("Sigmoid", "LeakyRelu"), of_one),
    **dict.fromkeys(("MaxPool", "GlobalAveragePool"), behind_conv),
    **dict.fromkeys(("Flatten", "Reshape", "Slice", "Transpose"), moved),
}
MEASURED = [
    (name, fusion.name)
    for name in target_names()
    if (target := load_target(name)).is_cpu  # cpu-arm too: the fusions do not depend on the processor
    for fusion in target.fusions
]


@pytest.mark.parametrize(("target_name", "fusion_name"), MEASURED)
def test_a_fusion_happens_and_is_right(target_name: str, fusion_name: str) -> None:
    target = load_target(target_name)
    [fusion] = [fusion for fusion in target.fusions if fusion.name == fusion_name]
    sketch = Sketch(seed=3)
    BUILDS[fusion_name](sketch, target, fusion)
    model = sketch.integer_model()

    runs = executed(model)
    assert runs.histogram.get(fusion.kernel, 0) == sketch.kernels[fusion.kernel]
    assert fusion.op_type == fusion.kernel or fusion.op_type not in runs.histogram
    ends = len(sketch.inputs) + (0 if fusion.output == "float" else 1)
    conversions = sum(runs.histogram.get(name, 0) for name in ("QuantizeLinear", "DequantizeLinear"))
    assert conversions == ends, "a weight or a value in between is still converted at run time"

    feed = sketch.feed()
    found = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feed)
    expected = reference(model, feed)
    assert len(found) == 1 and np.abs(expected[0]).max() > 2 * STEP
    limit = 1e-4 if fusion.output == "float" else STEP * 1.001
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=limit)


def test_a_bias_of_another_scale_is_not_fused() -> None:
    """What the quantizer relies on when it computes the scale of biases."""
    target = load_target()
    conv_fusion = target.fusion("Conv")
    assert conv_fusion is not None
    sketch = Sketch()
    conv(sketch, target, conv_fusion)
    model = onnx.load_from_string(sketch.integer_model())
    assert "QLinearConv" in executed(model).histogram
    [scale] = [i for i in model.graph.initializer if i.name.endswith("_b_scale")]
    doubled = onnx.numpy_helper.to_array(scale) * 2
    scale.CopyFrom(onnx.numpy_helper.from_array(doubled.astype(np.float32), scale.name))
    assert "QLinearConv" not in executed(model).histogram


def test_a_sketch_computes_the_same_in_both_forms() -> None:
    target = load_target()
    conv_fusion = target.fusion("Conv")
    assert conv_fusion is not None
    sketch = Sketch(seed=1)
    conv(sketch, target, conv_fusion, activation=None)
    feed = sketch.feed()
    floats, integers = (reference(form, feed)[0] for form in (sketch.float_model(), sketch.integer_model()))
    noise = float(np.sqrt(np.mean((floats - np.clip(integers, -6.4, 6.35)) ** 2)))
    assert noise < STEP and math.isfinite(noise)
    assert sketch.float_work == sketch.integer_work == [("Conv", Work(output=40 * 81))]
