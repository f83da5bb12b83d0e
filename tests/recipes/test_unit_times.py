"""Times of the parts of a model: whose kernel is whose, and that measured times decide the placement."""

from __future__ import annotations

import numpy as np
import onnx.numpy_helper

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.measure.profile import NodeTime, Profile
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.unit_times import attributed, unit_times
from onnxslim.runtime.kernels import executed
from onnxslim.runtime.targets.target import load_target
from onnxslim.runtime.targets.units import find_units
from tests.models import proto


def residual() -> ir.Model:
    source = proto(
        """g (float[1,16,12,12] x) => (float[1,16,12,12] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1)
            r = Relu(a)
            c = Conv <pads=[1,1,1,1]> (r, w2)
            s = Add(c, r)
            t = Relu(s)
            y = Conv <pads=[1,1,1,1]> (t, w3) }"""
    )
    rng = np.random.default_rng(0)
    for name in ("w1", "w2", "w3"):
        array = (rng.normal(size=(16, 16, 3, 3)) * 0.1).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def feeds(count: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 16, 12, 12)).astype(np.float32)} for _ in range(count)]


def seen(**times: float) -> Profile:
    nodes = tuple(NodeTime(name, "Conv", "P", us, 0.0, False) for name, us in times.items())
    return Profile(1, sum(times.values()), nodes, {}, 0, (), {})


def test_a_kernel_belongs_to_the_product_that_it_ends() -> None:
    units, _ = find_units(residual().graph, load_target())
    names = [unit.output.name for unit in units]
    assert names == ["r", "c", "t", "y"]
    # in float the second product, the sum and its Relu are one kernel, known by the last of their values
    found = {unit.output.name: us for unit, us in attributed(units, seen(r=5.0, t=7.0, y=3.0)).items()}
    assert found == {"r": 5.0, "c": 7.0, "t": 0.0, "y": 3.0}
    # in integers each has its own
    found = {unit.output.name: us for unit, us in attributed(units, seen(r=2.0, c=3.0, t=1.0, y=1.0)).items()}
    assert found == {"r": 2.0, "c": 3.0, "t": 1.0, "y": 1.0}


def test_products_of_which_nothing_is_seen_are_left_out() -> None:
    units, _ = find_units(residual().graph, load_target())
    assert {unit.output.name for unit in attributed(units, seen(r=5.0))} == {"r", "t"}


def test_every_unit_is_timed_in_both_forms() -> None:
    model = residual()
    times = unit_times(model, QuantizeStatic(calibrate(model, feeds())), feeds())
    assert set(times) == {"r", "c", "t", "y"}
    assert all(times[name][0] > 0 and times[name][1] > 0 for name in ("r", "c", "y"))
    assert [node.op_type for node in model.graph] == ["Conv", "Relu", "Conv", "Add", "Relu", "Conv"]


def test_measured_times_come_before_the_table() -> None:
    model = residual()
    calibration = calibrate(model, feeds())
    for slow, fast, kernels in ((1e6, 1.0, 3), (1.0, 1e6, 0)):
        result = model.clone()
        QuantizeStatic(calibration, times=dict.fromkeys(("r", "c", "t", "y"), (slow, fast)))(result)
        assert executed(result).histogram.get("QLinearConv", 0) == kernels


def test_all_means_whatever_has_a_kernel() -> None:
    model = residual()
    result = model.clone()
    dear = dict.fromkeys(("r", "c", "t", "y"), (1.0, 1000000.0))
    QuantizeStatic(calibrate(model, feeds()), placement="all", times=dear)(result)
    assert executed(result).histogram["QLinearConv"] == 3
