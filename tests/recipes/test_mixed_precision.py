"""Noise part by part, and the placement that gives up the noisiest parts first."""

from __future__ import annotations

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.measure.verify import verify
from onnxslim.passes.base import Promise
from onnxslim.passes.quantize_dynamic import QuantizeDynamic
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.mixed_precision import most_precise, unit_noise, with_less_noise
from onnxslim.runtime.kernels import executed
from tests.models import proto


def fragile() -> ir.Model:
    """Three products, the second behind an outlier that 8 bits cannot hold beside the rest."""
    source = proto(
        """g (float[1,16,12,12] x) => (float[1,16,12,12] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1)
            o = Mul(a, spike)
            b = Conv <pads=[1,1,1,1]> (o, w2)
            r = Relu(b)
            y = Conv <pads=[1,1,1,1]> (r, w3) }"""
    )
    rng = np.random.default_rng(0)
    spike = np.ones((1, 16, 1, 1), np.float32)
    spike[0, 0] = 2000
    weights = {
        name: (rng.normal(size=(16, 16, 3, 3)) * 0.1).astype(np.float32) for name in ("w1", "w2", "w3")
    }
    weights["w2"][:, 0] /= 2000
    for name, array in {**weights, "spike": spike}.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 16, 12, 12)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return fragile()


@pytest.fixture(scope="module")
def calibration(model: ir.Model) -> Calibration:
    return calibrate(model, feeds(6))


def gains(model: ir.Model) -> dict[str, tuple[float, float]]:
    """Times by which every product pays."""
    return dict.fromkeys(("a", "r", "y"), (1000000.0, 100000.0))


def sqnr(model: ir.Model, other: ir.Model) -> float:
    return verify(model, other, feeds(3), promise="lossy").sqnr_db


def test_the_fragile_part_is_the_noisiest(model: ir.Model, calibration: Calibration) -> None:
    noise = unit_noise(model, QuantizeStatic(calibration), feeds(2))
    assert set(noise) == {"a", "r", "y"}
    assert noise["r"] > 10 * max(noise["a"], noise["y"]) > 0


def test_noise_is_that_of_the_part_alone(model: ir.Model, calibration: Calibration) -> None:
    noise = unit_noise(model, QuantizeStatic(calibration), feeds(3))
    alone = run_steps(
        model, (QuantizeStatic(calibration, times={**dict.fromkeys("ry", (0.0, 1e9)), "a": (1e9, 0.0)}),)
    )
    assert executed(alone.model).histogram["QLinearConv"] == 1
    assert 10 ** (-sqnr(model, alone.model) / 10) == pytest.approx(noise["a"], rel=0.2)


def test_less_noise_gives_up_the_noisiest_first(model: ir.Model, calibration: Calibration) -> None:
    quantize = QuantizeStatic(calibration, times=gains(model))
    noise = {"a": 1e-4, "r": 1e-1, "y": 2e-4}
    forms = [
        run_steps(model, (with_less_noise(model, quantize, noise, share),)).model
        for share in (1.0, 0.5, 1e-5)
    ]
    assert [executed(form).histogram.get("QLinearConv", 0) for form in forms] == [3, 2, 0]


def test_the_most_integers_that_are_accepted(model: ir.Model, calibration: Calibration) -> None:
    quantize = QuantizeStatic(calibration, times=gains(model))
    everything = sqnr(model, run_steps(model, (quantize,)).model)
    assert everything < 25
    found = most_precise(model, quantize, feeds(2), lambda form: sqnr(model, form) > 30)
    assert found is not None
    outcome = run_steps(model, (found,))
    assert sqnr(model, outcome.model) > 30 and executed(outcome.model).histogram["QLinearConv"] == 2
    assert any("for the accuracy" in decline.reason for decline in outcome.declined)


def test_where_nothing_is_accepted(model: ir.Model, calibration: Calibration) -> None:
    assert (
        most_precise(model, QuantizeStatic(calibration, times=gains(model)), feeds(2), lambda form: False)
        is None
    )


def spiked() -> ir.Model:
    """Three products; what the second reads has one value in each tensor that is far above the others."""
    source = proto(
        """g (float[1,64,128] x) => (float[1,64,128] y) {
            a = MatMul(x, w1)  o = Mul(a, spike)  b = MatMul(o, w2)  y = MatMul(b, w3) }"""
    )
    rng = np.random.default_rng(0)
    spike = np.ones((1, 1, 128), np.float32)
    spike[..., 0] = 2000
    weights = {name: (rng.normal(size=(128, 128)) * 0.1).astype(np.float32) for name in ("w1", "w2", "w3")}
    weights["w2"][0] /= 2000
    for name, array in {**weights, "spike": spike}.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def test_a_dynamic_product_that_brings_the_noise_goes_back_to_float() -> None:
    model = spiked()
    feeds = [
        {"x": np.random.default_rng(seed).normal(size=(1, 64, 128)).astype(np.float32)} for seed in range(3)
    ]
    noise = unit_noise(model, QuantizeDynamic(), feeds)
    assert noise["b"] > 100 * max(noise["a"], noise["y"])

    def accepts(form: ir.Model) -> bool:
        return verify(model, form, feeds, promise=Promise.LOSSY).sqnr_db > 25

    form = most_precise(model, QuantizeDynamic(), feeds, accepts)
    assert form is not None
    histogram = executed(run_steps(model, (form,)).model).histogram
    assert histogram == {"DynamicQuantizeMatMul": 2, "MatMul": 1, "Mul": 1}
