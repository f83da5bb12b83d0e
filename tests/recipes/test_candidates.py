"""Candidates: what is proposed for which model and mode."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OptionError
from onnxslim.model.io import serialized_size
from onnxslim.passes.quantize_blocks import QuantizeBlocks
from onnxslim.recipes import candidates as candidates_module
from onnxslim.recipes import least_noise as least_noise_module
from onnxslim.recipes.candidates import candidates
from onnxslim.recipes.engine import run_steps
from onnxslim.runtime.kernels import executed
from tests.models import proto


def convolutions() -> ir.Model:
    source = proto(
        """g (float[1,32,28,28] x) => (float[1,64,28,28] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)  y = Conv <pads=[1,1,1,1]> (r, w2) }""",
        opset=11,
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (64, 32, 3, 3)), ("w2", (64, 64, 3, 3))):
        array = (rng.normal(size=shape) * 0.05).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 32, 28, 28)).astype(np.float32)} for _ in range(count)]


def test_each_candidate_shrinks_the_model() -> None:
    model = convolutions()
    proposed = candidates(model, calibrate(model, feeds(4)), feeds=feeds(2))
    names = [c.name for c in proposed]
    assert names[0] == f"{names[1]}, in 4 bits" and names[1].startswith("static int8")
    assert names[2:] == ["packed weights, 4 bits", "packed weights"]
    for candidate in proposed:
        result = run_steps(model, candidate.passes)
        assert not [record for record in result.applied if record.rolled_back]
        assert serialized_size(result.model) < 0.35 * serialized_size(model)


def test_modes() -> None:
    model = convolutions()
    both = ["packed weights, 4 bits", "packed weights"]
    assert [c.name for c in candidates(model, None)] == both
    assert [c.name for c in candidates(model, None, mode="weight-only")] == both
    only = candidates(model, None, mode="weight-only", weights="int8")
    assert [c.name for c in only] == both[1:]
    static = candidates(model, calibrate(model, feeds(2)), mode="static", weights="int8")
    assert [c.name for c in static] == ["static int8, minmax ranges"]


def products() -> ir.Model:
    """Two products, of which the second has inputs with outliers."""
    source = proto(
        """g (float[n,32,256] x) => (float[n,32,256] y) {
            a = MatMul(x, w1)  b = Pow(a, p)  y = MatMul(b, w2) }"""
    )
    rng = np.random.default_rng(0)
    for name in ("w1", "w2"):
        array = (rng.normal(size=(256, 256)) / 16).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(9), "p"))
    return ir.from_proto(source)


def test_products_are_dynamic_where_static_scales_have_to_hold_outliers() -> None:
    model = products()
    rng = np.random.default_rng(1)
    data = [{"x": rng.normal(size=(2, 32, 256)).astype(np.float32)} for _ in range(8)]
    alone = candidates(model, None, mode="dynamic")
    assert [c.name for c in alone] == ["dynamic int8"]
    proposed = {c.name: c for c in candidates(model, calibrate(model, data), mode="auto", weights="int8")}
    assert list(proposed) == [
        "static int8, minmax ranges",
        "static int8, products with outliers dynamic",
        "static int8, minmax ranges, outliers in float",
        "dynamic int8",
        "packed weights",
    ]
    kinds = {
        name: executed(run_steps(model, proposed[name].passes).model).histogram
        for name in ("static int8, products with outliers dynamic", "dynamic int8")
    }
    mixed, whole = kinds.values()
    assert mixed["MatMulIntegerToFloat"] == mixed["QuantizeLinear"] == mixed["DynamicQuantizeMatMul"] == 1
    assert whole == {"DynamicQuantizeMatMul": 2, "Pow": 1}


def test_a_dynamic_form_is_only_proposed_where_there_is_a_product() -> None:
    assert [c.name for c in candidates(convolutions(), None, mode="dynamic")] == ["dynamic int8"], "asked for"
    assert "dynamic int8" not in [c.name for c in candidates(convolutions(), None, mode="auto")]
    assert "dynamic int8" not in [c.name for c in candidates(products(), None, mode="auto", target="qnn")]


def one_row() -> ir.Model:
    source = proto("g (float[batch,1024] x) => (float[batch,256] y) { y = MatMul(x, w) }")
    array = (np.random.default_rng(0).normal(size=(1024, 256)) / 32).astype(np.float32)
    source.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    return ir.from_proto(source)


@pytest.mark.parametrize(("weights", "bits"), [("int8", {8}), ("int4", {4, 8}), ("int2", {2, 8})])
def test_products_of_few_rows_are_proposed_in_blocks(weights: str, bits: set[int]) -> None:
    model = one_row()
    rows = [{"x": np.random.default_rng(i).normal(size=(1, 1024)).astype(np.float32)} for i in range(8)]
    proposed = candidates(model, None, mode="weight-only", weights=weights, data=rows[:4], feeds=rows[4:])
    blocks = [c for c in proposed if c.essential == "quantize-blocks"]
    steps = [next(s for s in c.passes if isinstance(s, QuantizeBlocks)) for c in blocks]
    assert {step.bits for step in steps} == bits
    assert proposed[: len(blocks)] == blocks and blocks[-1].name == "weights in blocks"
    for candidate in blocks:
        outcome = run_steps(model, candidate.passes)
        assert not [record for record in outcome.applied if record.rolled_back]
        assert executed(outcome.model).histogram == {"MatMulNBits": 1}
    many = [{"x": np.zeros((64, 1024), np.float32)}]
    assert not [c for c in candidates(model, None, mode="weight-only", feeds=many) if "blocks" in c.name]


@pytest.mark.parametrize(
    ("ratios", "placed"),
    [
        ([0.7, 0.5, 0.6], ", placed by times measured here"),
        ([0.7, 0.695, 0.69], ""),  # as fast, to the width of a look: the table
    ],
)
def test_the_fastest_placement_is_taken(
    ratios: list[float], placed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = convolutions()
    left = iter(ratios)
    monkeypatch.setattr(
        candidates_module, "measure_latency", lambda *_, **__: SimpleNamespace(ratio=next(left))
    )
    monkeypatch.setattr(candidates_module, "unit_times", lambda *_: {"y": (1e6, 1.0), "r": (1.0, 1e6)})
    monkeypatch.setattr(least_noise_module, "_METHODS", ("minmax",))
    proposed = candidates(model, calibrate(model, feeds(2)), mode="static", weights="int8", feeds=feeds(1))
    assert proposed[0].name.replace(", corrected biases", "") == f"static int8, minmax ranges{placed}"


def test_forms_that_are_the_same_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = convolutions(), []

    def measured(*_: object, **__: object) -> SimpleNamespace:
        calls.append(1)
        return SimpleNamespace(ratio=0.5)

    monkeypatch.setattr(candidates_module, "measure_latency", measured)
    monkeypatch.setattr(candidates_module, "unit_times", lambda *_: {})
    candidates(model, calibrate(model, feeds(2)), mode="static", weights="int8", feeds=feeds(1))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mode": "fast"}, "mode 'fast'"),
        ({"target": "x"}, "target 'x'"),
        ({"weights": "int3"}, "weights 'int3'"),
    ],
)
def test_unknown(option: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        candidates(convolutions(), None, **option)


def test_weights_that_bring_much_noise_keep_8_bits() -> None:
    source = proto(
        """g (float[n,64] x) => (float[n,64] y) {
            a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) y = Add(a, b) }"""
    )
    rng = np.random.default_rng(0)
    for name, size in (("w1", 1.0), ("w2", 0.02)):
        array = (rng.normal(size=(64, 64)) ** 5 * size).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(source)
    data = [{"x": rng.normal(size=(4, 64)).astype(np.float32)} for _ in range(8)]
    proposed = candidates(model, None, mode="weight-only", data=data[:4], feeds=data[4:])
    assert [c.name for c in proposed] == ["packed weights, 4 bits by GPTQ", "packed weights"]
    graph = run_steps(model, proposed[0].passes).model.graph
    assert [node.op_type for node in graph].count("BitShift") == 1


@pytest.mark.parametrize("integer_io", [False, True])
def test_a_model_is_named_alike_however_often_it_is_made(integer_io: bool) -> None:
    """Weights are chosen by the names that a first run gave them."""
    model = convolutions()
    calibration = calibrate(model, feeds(2))
    [first, *_] = candidates(model, calibration, mode="static", feeds=feeds(2), integer_io=integer_io)
    once, twice = (run_steps(model, first.passes).model for _ in range(2))
    assert list(once.graph.initializers) == list(twice.graph.initializers)
    assert "BitShift" in {node.op_type for node in once.graph}


def test_for_another_machine_only_integers_are_proposed() -> None:
    """By bytes alone, which decide there, packed floats could win."""
    model = convolutions()
    calibration = calibrate(model, feeds(2))
    names = {
        t: [c.name for c in candidates(model, calibration, target=t)] for t in ("tensorrt", "cuda", "cpu-arm")
    }
    assert names["tensorrt"] == ["static int8, minmax ranges"]
    assert "packed weights" in names["cuda"], "nothing fuses there"
    assert "packed weights" in names["cpu-arm"]
