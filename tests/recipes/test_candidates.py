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
from onnxslim.recipes import candidates as candidates_module
from onnxslim.recipes import least_noise as least_noise_module
from onnxslim.recipes.candidates import candidates
from onnxslim.recipes.engine import run_steps
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
    assert names[0] == f"{names[1]}, stored in 4 bits" and names[1].startswith("static int8")
    four = "packed weights, 4 bits"
    assert names[2:] == [four, f"{four}, sensitive ones 8", "packed weights"]
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
    names = [c.name for c in proposed]
    four = "packed weights, 4 bits by GPTQ"
    assert names == [four, f"{four}, sensitive ones 8", "packed weights"]
    kinds = [
        [node.op_type for node in run_steps(model, c.passes).model.graph].count("BitShift") for c in proposed
    ]
    assert kinds == [2, 1, 0]


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
