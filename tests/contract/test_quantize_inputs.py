"""What ``quantize`` makes of every kind of model: right by onnxruntime with its optimizations off, or left
alone with its reason.  Only the measuring of time is made up.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Literal

import numpy as np
import onnx
import onnx.defs
import onnx.numpy_helper
import onnxruntime as ort
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.passes import PackWeights, QuantizeStatic, RaiseOpset
from onnxslim.recipes import search as search_module
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.pipeline import Result
from tests.models import bit_equal, proto, run

Feed = dict[str, np.ndarray]

CHAIN = """g (float[1,16,16,16] x) => (float[1,32,16,16] y) {
    a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)  y = Conv<pads = [1,1,1,1]>(r, w2, b1) }"""
CHAIN_WEIGHTS = {"w1": (32, 16, 3, 3), "b1": (32,), "w2": (32, 32, 3, 3)}
QDQ = """g (float[1,8] x) => (float[1,4] y)
    <float s = {0.05}, uint8 z = {120}, float[4] ws = {0.01,0.02,0.03,0.04}, int8[4] wz = {0,0,0,0}> {
    q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  f = DequantizeLinear<axis = 1>(i8, ws, wz)
    y = MatMul(d, f) }"""
QOPERATOR = """g (float[1,8] x) => (float[1,4] y)
    <float s = {0.05}, uint8 z = {120}, float ws = {0.01}, int8 wz = {0}, float t = {0.02}> {
    q = QuantizeLinear(x, s, z)  m = QLinearMatMul(q, s, z, i8, ws, wz, t, z)
    y = DequantizeLinear(m, t, z) }"""
INTEGER = """g (uint8[1,8] x) => (int32[1,4] y) { y = MatMulInteger(x, i8) }"""


def built(text: str, weights: dict[str, tuple[int, ...]], opset: int = 17) -> onnx.ModelProto:
    """A model whose undefined names are random weights of these shapes; ``i8`` is one of int8."""
    source, rng = proto(text, opset=opset, ir_version=7 if opset < 15 else 10), np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)
        array = rng.integers(-127, 128, shape).astype(np.int8) if name == "i8" else array.astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return source


def feeds(model: onnx.ModelProto, count: int, seed: int = 0) -> list[Feed]:
    defaults = {tensor.name for tensor in model.graph.initializer}
    found = []
    for number in range(count):
        rng, feed = np.random.default_rng((seed, number)), {}
        for info in model.graph.input:
            shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            if info.name in defaults:
                continue
            if kind == np.bool_:
                feed[info.name] = np.array(number % 2 == 0).reshape(shape)
            elif kind.kind in "iu":
                feed[info.name] = rng.integers(0, 200, shape).astype(kind)
            else:
                feed[info.name] = rng.normal(size=shape).astype(kind)
        found.append(feed)
    return found


def sqnr_db(one: np.ndarray, other: np.ndarray) -> float:
    noise = float(np.sum((one.astype(np.float64) - other) ** 2))
    return 10 * np.log10(float(np.sum(one.astype(np.float64) ** 2)) / noise) if noise else np.inf


@pytest.fixture
def quantize(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The public function, where every candidate is measured to be a little faster."""
    faster = SimpleNamespace(
        ratio=0.9, interval=(0.89, 0.91), verdict="faster", seconds_b=1.0, reliable=True, to_dict=dict
    )
    monkeypatch.setattr(search_module, "measure_latency", lambda *args, **more: faster)
    monkeypatch.setattr("onnxslim.recipes.contest.latency_fields", lambda measured: {})

    def call(model: onnx.ModelProto, mode: Literal["auto", "static"] = "auto") -> Result:
        return onnxslim.quantize(model, feeds(model, 24), mode=mode)

    return call


def assert_right(model: onnx.ModelProto, result: Result, least_db: float = 20.0) -> None:
    """The interface is kept, and on new inputs the outputs are close."""
    after = result.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert [i.SerializeToString() for i in (*after.graph.input, *after.graph.output)] == [
        i.SerializeToString() for i in (*model.graph.input, *model.graph.output)
    ]
    for feed in feeds(model, 3, seed=1):
        for one, other in zip(run(model, feed), run(after, feed), strict=True):
            assert sqnr_db(one, other) > least_db


def kept(result: Result) -> str | None:
    return next((row["name"] for row in result.report.tried if row["kept"]), None)


@pytest.mark.parametrize("text", [QDQ, QOPERATOR, INTEGER], ids=["QDQ", "QOperator", "integer operators"])
def test_a_quantized_model_is_left_alone(text: str, quantize: Callable[..., Result]) -> None:
    model = built(text, {"i8": (8, 4)})
    result = quantize(model)
    assert kept(result) is None and "it is returned unchanged" in result.report.notes[-1]
    reasons = [row["reason"] for row in result.report.tried]
    assert reasons and all("found nothing that pays" in reason for reason in reasons)
    if text == QDQ:
        assert "the model is quantized already" in reasons[0]
    for feed in feeds(model, 3, seed=1):
        assert all(map(bit_equal, run(model, feed), run(result.model, feed)))


def test_shared_weights_and_biases(quantize: Callable[..., Result]) -> None:
    text = """g (float[1,32,16,16] x) => (float[1,32,16,16] y) {
        a = Conv<pads = [1,1,1,1]>(x, w, b)  r = Relu(a)  c = Conv<pads = [1,1,1,1]>(r, w, b)
        s = Relu(c)  y = Conv<pads = [1,1,1,1]>(s, w, b) }"""
    model = built(text, {"w": (32, 32, 3, 3), "b": (32,)})
    result = quantize(model, "static")
    assert_right(model, result)
    assert kept(result)
    stored = [
        t
        for t in result.to_proto().graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4
    ]
    assert len(stored) == 1, "one weight stays one weight"


def test_constants_as_nodes(quantize: Callable[..., Result]) -> None:
    model = built(CHAIN, CHAIN_WEIGHTS)
    for tensor in model.graph.initializer:
        node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
    del model.graph.initializer[:]
    result = quantize(model, "static")
    assert_right(model, result)
    assert kept(result)


def test_an_overridable_weight_is_not_frozen(quantize: Callable[..., Result]) -> None:
    text = CHAIN.replace("float[1,16,16,16] x", "float[1,16,16,16] x, float[32,32,3,3] w2")
    model = built(text, CHAIN_WEIGHTS)
    result = quantize(model, "static")
    assert_right(model, result)
    assert any("weight is not constant" in entry.reason for entry in result.report.declined)
    other = np.random.default_rng(9).normal(size=(32, 32, 3, 3)).astype(np.float32)
    for feed in feeds(model, 2, seed=1):
        one, two = run(model, feed | {"w2": other})[0], run(result.model, feed | {"w2": other})[0]
        assert sqnr_db(one, two) > 20 and sqnr_db(run(model, feed)[0], one) < 5


def test_branches(quantize: Callable[..., Result]) -> None:
    text = """g (bool c, float[1,16,16,16] x) => (float[1,32,16,16] y) {
        a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)
        y = If(c) <then_branch = t () => (float[1,32,16,16] p) { p = Conv<pads = [1,1,1,1]>(r, w2, b1) },
                   else_branch = f () => (float[1,32,16,16] q) { q = Neg(r) }> }"""
    model = built(text, CHAIN_WEIGHTS)
    result = quantize(model)
    assert_right(model, result)
    assert kept(result)


def test_a_function(quantize: Callable[..., Result]) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
    g (float[16,128] x) => (float[16,128] y) { h = local.block(x, w)  y = local.block(h, v) }
    <domain: "local", opset_import: ["" : 17]> block (a, k) => (b) { c = MatMul(a, k)  b = Relu(c) }"""
    model = built(text, {"w": (128, 128), "v": (128, 128)})
    result = quantize(model)
    assert_right(model, result)


def quantized(model: onnx.ModelProto) -> Outcome:
    """The steps of a candidate, without the search around them."""
    base = run_steps(ir.from_proto(model), simplify_steps()).model
    calibration = calibrate(base, feeds(model, 16))
    return run_steps(base, (RaiseOpset(), QuantizeStatic(calibration), PackWeights()))


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_every_operator_set(opset: int) -> None:
    text = """g (float[1,16,16,16] x) => (float[1,10] y) {
        a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)
        p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
        b = Conv<pads = [1,1,1,1]>(p, w2, b1)  s = Add(b, p)  t = Relu(s)
        g1 = GlobalAveragePool(t)  f = Flatten(g1)  y = Gemm<transB = 1>(f, w3, b3) }"""
    model = built(text, CHAIN_WEIGHTS | {"w3": (10, 32), "b3": (10,)}, opset)
    try:
        run(model, feeds(model, 1)[0])
    except ort.capi.onnxruntime_pybind11_state.Fail as error:
        pytest.skip(f"onnxruntime does not know operator set {opset} yet: {str(error)[:60]}")
    outcome = quantized(model)
    after = ir.to_proto(outcome.model)
    onnx.checker.check_model(after, full_check=True)
    assert {entry.domain: entry.version for entry in after.opset_import}[""] == max(opset, 13)
    count = sum(node.op_type == "QuantizeLinear" for node in after.graph.node)
    reasons = [entry.reason for entry in outcome.declined]
    assert count >= 3 or any("quantized it does not run: onnxruntime" in reason for reason in reasons)
    for feed in feeds(model, 3, seed=1):
        assert sqnr_db(run(model, feed)[0], run(after, feed)[0]) > 25
