"""Channels of very different ranges become alike, at equal bits, and 8 bits then serve them."""

from __future__ import annotations

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OptionError
from onnxslim.passes.equalize_channels import EqualizeChannels
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.noise import noise_to_signal
from tests.models import bit_equal, proto, run

RNG = np.random.default_rng(0)
SPREAD = np.exp2(RNG.integers(-5, 6, 32)).astype(np.float32)  # of the channels' ranges


def uneven(middle: str = "r = Relu(a)") -> ir.Model:
    """Two convolutions around channels whose ranges differ by a thousand."""
    source = proto(f"""g (float[1,16,6,6] x) => (float[1,8,6,6] y) {{
        a = Conv <pads=[1,1,1,1]> (x, w1, b1)  {middle}  y = Conv (r, w2) }}""")
    first = RNG.standard_normal((32, 16, 3, 3)) * SPREAD.reshape(-1, 1, 1, 1)
    weights = {
        "w1": first,
        "b1": RNG.standard_normal(32) * SPREAD,
        "w2": RNG.standard_normal((8, 32, 1, 1)) / SPREAD.reshape(1, -1, 1, 1),
    }
    for name, array in weights.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return ir.from_proto(source)


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.standard_normal((1, 16, 6, 6)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("balance", [0.5, 1.0])
@pytest.mark.parametrize("calibrated", [False, True])
def test_ranges_become_alike_and_every_bit_stays(balance: float, calibrated: bool) -> None:
    model, data = uneven(), feeds(4)
    calibration = calibrate(model, data) if calibrated else None
    equal = model.clone()
    assert EqualizeChannels(calibration, balance)(equal).modified
    for feed in data:
        assert bit_equal(run(model, feed)[0], run(equal, feed)[0])
    before, after = (np.sqrt(calibrate(each, data).moments("r").variance) for each in (model, equal))
    assert before.max() / before.min() > 500 and after.max() / after.min() < 6


def test_8_bits_lose_less_behind_it() -> None:
    model, data = uneven(), feeds(6)
    equal = model.clone()
    EqualizeChannels(calibrate(model, data))(equal)
    noise = {}
    for name, each in (("before", model), ("after", equal)):
        quantized = each.clone()
        QuantizeStatic(calibrate(each, data), check=False, placement="all")(quantized)
        pairs = [(run(model, feed), run(quantized, feed)) for feed in feeds(2)]
        noise[name] = noise_to_signal([a for a, _ in pairs], [b for _, b in pairs])
    assert noise["after"] < noise["before"] / 20


def test_factors_serve_the_quantizer() -> None:
    """The same as equalizing first, in one pass."""
    model, data = uneven(), feeds(4)
    equalize = EqualizeChannels(calibrate(model, data), 1.0)
    equal = model.clone()
    equalize(equal)
    settings = {"calibration": calibrate(equal, data), "check": False, "placement": "all"}
    QuantizeStatic(**settings)(equal)
    at_once = model.clone()
    QuantizeStatic(**settings, factors=equalize.factors(model))(at_once)
    for feed in feeds(2):
        assert bit_equal(run(equal, feed)[0], run(at_once, feed)[0])


def test_ranges_come_before_the_method() -> None:
    model, data = uneven(), feeds(2)
    calibration = calibrate(model, data)
    quantized = model.clone()
    QuantizeStatic(calibration, check=False, placement="all", ranges={"x": (0.0, 2.55)})(quantized)
    assert quantized.graph.initializers["x_scale"].const_value.numpy() == np.float32(0.01)


def test_nothing_is_scaled_where_nothing_may_be() -> None:
    model = uneven("r = Sigmoid(a)")
    assert not EqualizeChannels()(model).modified


def test_bits_that_would_be_lost_are_kept() -> None:
    model = uneven()
    weight = model.graph.initializers["w1"].const_value.numpy().copy()
    weight[int(SPREAD.argmax()), 0, 0, 0] = 1e-38  # would become subnormal
    model.graph.initializers["w1"].const_value = ir.tensor(weight, name="w1")
    assert not EqualizeChannels()(model).modified


def test_channels_that_are_always_zero_stay() -> None:
    model = uneven()
    weight, bias = (model.graph.initializers[name] for name in ("w1", "b1"))
    arrays = [value.const_value.numpy().copy() for value in (weight, bias)]
    for value, array in zip((weight, bias), arrays, strict=True):
        array[3] = 0
        value.const_value = ir.tensor(array, name=value.name)
    second = model.graph.initializers["w2"].const_value.numpy()[:, 3].copy()
    assert EqualizeChannels()(model).modified
    np.testing.assert_array_equal(model.graph.initializers["w2"].const_value.numpy()[:, 3], second)


def test_a_balance_out_of_range() -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        EqualizeChannels(balance=1.5)
