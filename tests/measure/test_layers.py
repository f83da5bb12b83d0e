"""Where noise is born, against ratios that the test takes itself from plain onnxruntime."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.extract import extract
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import VerificationError
from onnxslim.measure import layers
from onnxslim.measure.layers import Layer, layer_noise
from onnxslim.model.edit import replace_initializer
from onnxslim.passes import IntegerIo, QuantizePorts, QuantizeStatic
from onnxslim.runtime.client import open_worker
from tests.models import bit_equal, model, proto, run

NET = """g (float[1,32,9,9] x) => (float[1,32,9,9] y) {
    a = Conv<pads = [1,1,1,1]>(x, w)  r = Relu(a)  b = Conv<pads = [1,1,1,1]>(r, v)
    s = Add(b, r)  y = Tanh(s) }"""


def network() -> ir.Model:
    source, rng = proto(NET), np.random.default_rng(0)
    for name in "wv":
        array = rng.normal(size=(32, 32, 3, 3)).astype(np.float32) / 16
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def feeds(count: int = 3) -> list[dict[str, Any]]:
    return [
        {"x": np.random.default_rng(seed).normal(size=(1, 32, 9, 9)).astype(np.float32)}
        for seed in range(count)
    ]


def quantized() -> ir.Model:
    result, calibration = network(), calibrate(network(), feeds(8))
    QuantizePorts(calibration)(result)
    QuantizeStatic(calibration, check=False)(result)
    return result


def compared(a: ir.Model, b: ir.Model) -> dict[str, Layer]:
    with open_worker() as worker:
        return {layer.value: layer for layer in layer_noise(a, b, feeds(), worker)}


def fetched(source: ir.Model, name: str, feed: dict[str, Any]) -> np.ndarray:
    """A value inside a model, by plain onnxruntime."""
    message = ir.to_proto(source)
    message.graph.output.append(onnx.ValueInfoProto(name=name))
    return np.asarray(run(message, feed, [name])[0])


def decibels(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    one, two = (np.concatenate([pair[side].ravel() for pair in pairs]).astype(np.float64) for side in (0, 1))
    noise = float(np.sum((one - two) ** 2))
    return 10 * math.log10(float(np.sum(one**2)) / noise) if noise else math.inf


def restored(b: ir.Model, name: str) -> str:
    """What comes back from the integers of a value, if there is such."""
    for node in b.graph:
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None and node.inputs[0].name == name:
            return next(user.outputs[0].name or "" for user, _ in node.outputs[0].uses())
    return name


def test_ratios_are_those_of_the_values_themselves() -> None:
    a, b = network(), quantized()
    found = compared(a, b)
    assert list(found) == ["x", *(n for n in ("a", "r", "b", "s", "y") if n in found)] and len(found) >= 4
    for name, layer in found.items():
        if name == "x":
            pairs = [(feed["x"], fetched(b, restored(b, "x"), feed)) for feed in feeds()]
        else:
            pairs = [(fetched(a, name, feed), fetched(b, restored(b, name), feed)) for feed in feeds()]
        assert layer.sqnr_db == pytest.approx(decibels(pairs), abs=0.01), name
    assert found["x"].op == "input" and found["x"].drop_db is None and found["y"].op == "Tanh"
    y, before = found["y"], found["s"]
    assert y.drop_db == pytest.approx(before.sqnr_db - y.sqnr_db)


def test_noise_is_put_down_to_the_layer_where_it_is_born() -> None:
    a, b = network(), network()
    weight = b.graph.initializers["v"].const_value
    assert weight is not None
    replace_initializer(b.graph.initializers["v"], weight.numpy() * np.float32(1.01))
    found = compared(a, b)
    assert found["a"].sqnr_db == found["r"].sqnr_db == math.inf
    assert found["b"].own_db == pytest.approx(40, abs=0.1) and found["b"].drop_db is None
    assert found["s"].own_db == found["y"].own_db == math.inf and found["s"].sqnr_db < 60


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compared(network(), quantized())
    monkeypatch.setattr(layers, "_SLICE_VALUES", 1)
    assert compared(network(), quantized()) == whole


def test_a_model_of_integers_is_compared_too() -> None:
    b = quantized()
    assert IntegerIo()(b).modified
    found = compared(network(), b)
    scale, zero = (float(b.metadata_props[f"input.x.{key}"]) for key in ("scale", "zero_point"))
    out_scale, out_zero = (float(b.metadata_props[f"output.y.{key}"]) for key in ("scale", "zero_point"))
    pairs = []
    for feed in feeds():  # the input is rounded for both
        integers = np.clip(np.rint(feed["x"] / np.float32(scale)) + zero, 0, 255).astype(np.uint8)
        floats = (integers.astype(np.float32) - np.float32(zero)) * np.float32(scale)
        output = (run(b, {"x": integers})[0].astype(np.float32) - np.float32(out_zero)) * np.float32(
            out_scale
        )
        pairs.append((fetched(network(), "y", {"x": floats}), output))
    assert found["y"].sqnr_db == pytest.approx(decibels(pairs), abs=0.01)


def test_models_without_a_common_value() -> None:
    with pytest.raises(VerificationError, match="no value in common"), open_worker() as worker:
        one = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
        layer_noise(one, model("g (float[2] x) => (float[2] z) { z = Neg(x) }"), [], worker)


def test_a_part_of_a_model_with_a_branch_and_what_it_reads() -> None:
    text = """g (bool c, float[2] x, float[2] unread) => (float[2] y, float[2] n) <float[2] k = {1,2}> {
        e = Exp(x)  o = Exp(unread)  n = Neg(o)
        i = If(c) <then_branch = t () => (float[2] p) { p = Add(e, k) },
                   else_branch = f () => (float[2] q) { q = Neg(x) }>
        y = Abs(i) }"""
    source = model(text)
    feed = {"c": np.array(True), "x": np.float32([1, 2])}
    part, fed = extract(source, ["y"])
    assert [v.name for v in part.graph.inputs] == ["c", "x"] and not fed
    assert bit_equal(run(part, feed)[0], run(source, {**feed, "unread": feed["x"]})[0])
    part, fed = extract(source, ["y"], {"e": ()})
    assert fed == {"e": "e_given"}
    assert run(part, {**feed, "e_given": np.float32([5, 6])})[0].tolist() == [6, 8]
    assert [v.name for v in source.graph.outputs] == ["y", "n"]
