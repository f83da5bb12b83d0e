"""Quantizers at inputs and outputs: where they go, and that integers follow."""

from __future__ import annotations

import numpy as np
import onnx

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.passes import IntegerIo, QuantizePorts
from onnxslim.passes.base import collect_declines
from tests.models import proto, run

TEXT = """g (float[1,8] x, int64[1] i) => (float[1,8] y, float[1,8] e, int64[1] j) {
    e = Exp(x)  y = Neg(e)  j = Neg(i) }"""


def feed(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).uniform(-1, 1, (1, 8)).astype(np.float32), "i": np.int64([1])}


def ported(text: str, **options: object) -> tuple[onnx.ModelProto, ir.Model, list[str]]:
    source = proto(text)
    calibration = calibrate(ir.from_proto(source), [feed(seed) for seed in range(16)])
    model = ir.from_proto(source)
    with collect_declines() as log:
        QuantizePorts(calibration, **options)(model)  # type: ignore[arg-type]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not QuantizePorts(calibration)(model).modified
    return source, model, [entry.reason for entry in log.entries]


def test_every_float_port_gets_a_pair() -> None:
    source, model, reasons = ported(TEXT)
    operators = [node.op_type for node in model.graph]
    assert not reasons and operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 3
    assert [v.name for v in model.graph.outputs] == ["y", "e", "j"]
    for one, two in zip(run(source, feed(99)), run(model, feed(99)), strict=True):
        assert np.abs(one - two).max() <= 3 * (2.8 / 255)  # steps of the input (times e at most) and the output
    # y is computed from e as it was before it was quantized for the outside
    inside = next(node for node in model.graph if node.op_type == "Neg").inputs[0]
    assert inside is not None and inside.producer() is not None and inside.producer().op_type == "Exp"

    assert IntegerIo()(model).modified
    assert {v.name: str(v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)} == {
        **{"x": "UINT8", "i": "INT64"},
        **{"y": "UINT8", "e": "UINT8", "j": "INT64"},
    }


def test_a_quantized_input_keeps_its_scale() -> None:
    text = """g (float[1,8] x, int64[1] i) => (float[1,8] y, float[1,8] e) <float s = {0.25}, uint8 z = {7}> {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = Neg(d)  e = Exp(x) }"""
    _, model, _ = ported(text)
    quantizers = [node for node in model.graph if node.op_type == "QuantizeLinear" and node.inputs[0].name == "x"]  # type: ignore[union-attr]
    assert len(quantizers) == 1 and len(model.graph.inputs[0].uses()) == 1
    assert IntegerIo(outputs=False)(model).modified and model.metadata_props["input.x.zero_point"] == "7"


def test_what_was_not_calibrated_stays() -> None:
    model = ir.from_proto(proto(TEXT))
    with collect_declines() as log:
        assert not QuantizePorts()(model).modified
        assert not QuantizePorts(Calibration({}, {}))(model).modified
    assert {entry.reason for entry in log.entries} == {"needs a calibration", "was not calibrated"}
