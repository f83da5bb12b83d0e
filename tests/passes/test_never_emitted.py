"""Forms that onnxruntime runs slower than floats, or not at all, are never written, whatever the graph.

Each rule here was measured: Conv with uint8 weights (1.1 times as fast as float at best), weight-only (0.2-0.67) or
without a quantized output (0.68), sub-byte weights of Conv (an invalid graph at 2 bits), DequantizeLinear of an
embedding table in front of Gather (0.02), ConvInteger (0.1), MatMul and Add that become a float Gemm of
dequantized inputs (0.31).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.measure.costs.trials import trials
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.runtime.kernels import executed
from onnxslim.runtime.targets.load import load_target, target_names
from onnxslim.runtime.targets.target import CPU
from tests.passes.test_quantize_static import WEIGHTS, NET, built

CPU_TARGETS = [name for name in target_names() if load_target(name).provider == CPU]
NARROW = {
    onnx.TensorProto.DataType.Value(name)
    for name in ("INT4", "UINT4", "INT2", "UINT2", "INT16", "UINT16", "FLOAT8E4M3FN", "FLOAT8E5M2")
}
GRAPHS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "a network": (NET, WEIGHTS),
    "an embedding": (
        """g (int64[1,16] x) => (float[1,16,96] y) {
            e = Gather(table, x) y = MatMul(e, w) }""",
        {"table": (500, 96), "w": (96, 96)},
    ),
    "a bias behind a product": (
        "g (float[64,384] x) => (float[64,512] y) { m = MatMul(x, w) y = Add(m, b) }",
        {"w": (384, 512), "b": (512,)},
    ),
    "a bias behind a product of three dimensions": (
        "g (float[4,16,384] x) => (float[4,16,512] y) { m = MatMul(x, w) s = Add(m, b) y = Erf(s) }",
        {"w": (384, 512), "b": (512,)},
    ),
    "groups": (
        "g (float[1,64,28,28] x) => (float[o,p,q,r] y) { y = Conv <group=4, pads=[1,1,1,1]> (x, w) }",
        {"w": (64, 16, 3, 3)},
    ),
    "one and three dimensions": (
        """g (float[1,64,256] x) => (float[o,p,q] y) {
            y = Conv <pads=[1,1]> (x, w) }""",
        {"w": (64, 64, 3)},
    ),
    "a transposed convolution": (
        "g (float[1,64,28,28] x) => (float[o,p,q,r] y) { y = ConvTranspose (x, w) }",
        {"w": (64, 64, 3, 3)},
    ),
    "a recurrent network": (
        """g (float[12,1,64] x) => (float[12,1,1,64] y) {
            y = GRU <hidden_size=64> (x, w, r) }""",
        {"w": (1, 192, 64), "r": (1, 192, 64)},
    ),
}


def generated() -> Iterator[Any]:
    target = load_target()
    for fusion in target.fusions:
        if fusion.output != "same":
            for number, sketch in enumerate(trials(target, fusion, 2, seed=11)):
                yield pytest.param(sketch.float_model(), id=f"{fusion.name} {number}")
    for name, (text, weights) in GRAPHS.items():
        yield pytest.param(ir.to_proto(built(text, **weights)).SerializeToString(), id=name)


def compressed(content: bytes, target: str) -> onnx.ModelProto:
    """What our passes make of a float model."""
    model = ir.from_proto(onnx.load_from_string(content))
    rng = np.random.default_rng(0)
    feeds = []
    for _ in range(2):
        feed = {}
        for value in model.graph.inputs:
            assert value.shape is not None
            shape = [dim for dim in value.shape if isinstance(dim, int)]
            draw = rng.normal(size=shape).astype(np.float32)
            feed[value.name or ""] = rng.integers(0, 9, shape) if value.dtype == ir.DataType.INT64 else draw
        feeds.append(feed)
    QuantizeStatic(calibrate(model, feeds), target=target)(model)
    PackWeights()(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    return proto


def faults(model: onnx.ModelProto) -> list[str]:
    """What must not be there, in the file and in the graph that the runtime builds of it."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = [f"{name} is {kind}" for name, kind in types.items() if kind in NARROW]
    found += [node.op_type for node in graph.node if node.op_type in ("ConvInteger", "DynamicQuantizeLinear")]
    for node in graph.node:
        restored = [makers.get(name) for name in node.input]
        weights = [
            maker for maker in restored if maker is not None and maker.op_type == "DequantizeLinear"
            and maker.input[0] in types
        ]
        if node.op_type == "Gather" and weights:
            found.append("a table is dequantized in front of Gather")
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not weights:
            continue
        if types[restored[1].input[0]] != onnx.TensorProto.INT8:  # type: ignore[union-attr]
            found.append(f"{node.op_type} has weights that are not int8")
        if restored[0] is None or restored[0].op_type != "DequantizeLinear":
            found.append(f"{node.op_type} is quantized in its weights alone")
        if node.op_type == "Conv":
            [user] = readers[node.output[0]]
            if user.op_type in ("Relu", "Clip"):
                [user] = readers[user.output[0]]
            if user.op_type != "QuantizeLinear":
                found.append("Conv has no quantized output")
    runs = executed(model)
    makers_there = {name: kernel for kernel in runs.kernels for name in kernel.outputs}
    for kernel in runs.kernels:
        for name in kernel.inputs:
            maker = makers_there.get(name)
            if maker is not None and maker.op_type == "DequantizeLinear" and maker.inputs[0] not in makers_there:
                found.append(f"{kernel.op_type} reads what is dequantized at run time from {maker.inputs[0]}")
    return found


@pytest.mark.parametrize("target", CPU_TARGETS)
@pytest.mark.parametrize("content", list(generated()))
def test_nothing_slow_is_written(content: bytes, target: str) -> None:
    assert faults(compressed(content, target)) == []


TRAPS = {
    "uint8 weights": (
        "q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) wd = DequantizeLinear(wu, s, u) "
        "c = Conv(d, wd) r = QuantizeLinear(c, s, u) y = DequantizeLinear(r, s, u)",
        "not int8",
    ),
    "float output": (
        "q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) wd = DequantizeLinear(wi, s, i) "
        "c = Conv(d, wd) y = Erf(c)",
        "no quantized output",
    ),
    "weights alone": ("wd = DequantizeLinear(wi, s, i) c = Conv(x, wd) y = Erf(c)", "weights alone"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_the_traps_would_be_seen(name: str) -> None:
    """The judge of the test above, on what other tools write."""
    nodes, what = TRAPS[name]
    model = ir.to_proto(built(f"g (float[1,8,8,8] x) => (float[o,p,q,r] y) {{ {nodes} }}"))
    weight = np.ones((8, 8, 3, 3), np.int8)
    for key, array in {
        "s": np.float32(0.1),
        "u": np.uint8(128),
        "i": np.int8(0),
        "wi": weight,
        "wu": weight.astype(np.uint8),
    }.items():
        if any(key in node.input for node in model.graph.node):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(array), key))
    found = faults(model)
    assert any(what in fault for fault in found), found
    if name != "uint8 weights":
        assert any("at run time" in fault for fault in found), found
