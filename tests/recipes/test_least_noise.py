"""What is kept leaves less noise on inputs that nothing was fitted to; what does not is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes import least_noise as module
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.least_noise import least_noise
from onnxslim.recipes.noise import noise_to_signal, observed_at, outputs_of, telling_values, total_noise
from onnxslim.runtime.client import open_worker
from tests.models import proto, run

RNG = np.random.default_rng(0)
SPREAD = np.exp2(RNG.integers(-4, 5, 32)).astype(np.float32)


def network(head: str = "y = Identity(c)") -> ir.Model:
    """Three products: uneven channels between the first two, heavy tails in front of the third."""
    source = proto(f"""g (float[16,64] x) => (float[16,24] y) {{
        a = MatMul(x, w1)  r = Relu(a)  b = MatMul(r, w2)  e = Mul(b, b)  f = Mul(e, b)
        c = MatMul(f, w3)  {head} }}""")
    weights = {
        "w1": RNG.standard_normal((64, 32)) * SPREAD,
        "w2": RNG.standard_normal((32, 64)) / SPREAD.reshape(-1, 1) / 16,
        "w3": RNG.standard_normal((64, 24)) / 16,
    }
    for name, array in weights.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return ir.from_proto(source)


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.standard_normal((16, 64)).astype(np.float32)} for _ in range(count)]


def noise(model: ir.Model, form: QuantizeStatic, data: list[dict[str, np.ndarray]]) -> float:
    built = run_steps(model, (form,)).model
    return noise_to_signal([run(model, feed) for feed in data], [run(built, feed) for feed in data])


def test_each_step_lowers_the_noise_on_data_that_nobody_saw() -> None:
    model, data, held_out, unseen = network(), feeds(24), feeds(8), feeds(16)
    first = QuantizeStatic(calibrate(model, data), placement="all")
    single = least_noise(model, first, held_out)
    assert not single.ranges and not single.factors, "nothing to calibrate on"
    best = least_noise(model, first, held_out, data)
    assert best.factors
    assert noise(model, best, unseen) < 0.7 * noise(model, single, unseen)
    assert noise(model, single, unseen) <= 1.01 * noise(model, first, unseen)


def test_groups_take_the_method_that_serves_them() -> None:
    """The cube has tails that are better cut off."""
    model, data, unseen = network(), feeds(24), feeds(8)
    form = QuantizeStatic(calibrate(model, data), placement="all")
    with open_worker() as worker:
        chosen = module._grouped(worker, model, form, data[:8])
    assert "f" in chosen.ranges
    assert chosen.ranges["f"] in [form.calibration.range("f", method) for method in ("mse", "percentile")]
    assert noise(model, chosen, unseen) < 0.99 * noise(model, form, unseen)


def test_biases_hold_while_ranges_of_their_inputs_are_tried() -> None:
    rng = np.random.default_rng(3)
    source = proto("""g (float[1,3,8,8] x) => (float[1,64,8,8] y) {
        a = Conv<kernel_shape = [1,1]>(x, w1, b1)  r = Relu(a)
        y = Conv<kernel_shape = [1,1]>(r, w2, b2) }""")
    for name, shape in {"w1": (64, 3, 1, 1), "b1": (64,), "w2": (64, 64, 1, 1), "b2": (64,)}.items():
        array = (2 if len(shape) == 1 else 1 / 4) * rng.standard_normal(shape)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    model = ir.from_proto(source)
    data = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    odd = data[0]["x"].copy()
    odd[..., 0] *= 100
    form = QuantizeStatic(calibrate(model, [*data, {"x": odd}]), placement="all")
    assert sum(node.op_type == "Mul" for node in run_steps(model, (form,)).model.graph) == 2
    with open_worker() as worker:
        chosen = module._grouped(worker, model, form, data)
    assert "x" in chosen.ranges, "one odd value stretches it"
    assert noise(model, chosen, data) < noise(model, form, data)


def test_what_makes_it_worse_on_held_out_data_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of ranges that are far too narrow, which the data they are chosen on do not show."""
    model, data, held_out = network(), feeds(8), feeds(4)
    first = QuantizeStatic(calibrate(model, data), placement="all")
    form = least_noise(model, first, held_out, data)

    def spoilt(_worker: object, _model: object, form: QuantizeStatic, _feeds: object) -> QuantizeStatic:
        return QuantizeStatic(form.calibration, placement="all", ranges={"x": (-0.01, 0.01)})

    monkeypatch.setattr(module, "_grouped", spoilt)
    without = least_noise(model, first, held_out, data)
    assert without.ranges == {} and without.factors.keys() == form.factors.keys()


def test_without_held_out_data_nothing_is_chosen() -> None:
    model = network()
    first = QuantizeStatic(calibrate(model, feeds(2)))
    assert least_noise(model, first, [], feeds(2)) is first


def test_noise_is_measured_in_front_of_what_saturates() -> None:
    assert telling_values(network("s = Softmax(c)  y = Identity(s)")) == ("c", "f")
    assert telling_values(network()) == ("c", "f")
    computed = network("n = Shape(c)  s = Softmax(c)  y = Reshape(s, n)")
    assert telling_values(computed) == ("c", "f")


def test_large_outputs_tell_themselves() -> None:
    source = proto("""g (float[4,800] x, float[800,800] w) => (float[4,800] y) {
        a = MatMul(x, w)  b = Add(a, x)  y = LayerNormalization(b, s) }""")
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(800, np.float32), "s"))
    assert telling_values(ir.from_proto(source)) == ("y",), (
        "outliers that are normalized away count for little"
    )


def test_values_are_observed_as_they_are_read() -> None:
    model, data = network(), feeds(2)
    quantized = run_steps(model, (QuantizeStatic(calibrate(model, data), placement="all"),)).model
    [value] = observed_at(quantized, ["x"]).graph.outputs
    assert value.name == "x_dequantized"


def test_noises_of_several_outputs_add_up() -> None:
    reference = [[np.array([1.0, 1.0]), np.array([2.0])], [np.array([1.0, 1.0]), np.array([2.0])]]
    found = [[np.array([1.0, 1.0]), np.array([2.2])], [np.array([1.4, 1.0]), np.array([2.0])]]
    assert total_noise(reference, found) == pytest.approx(0.16 / 4 + 0.04 / 8)


def test_an_input_that_tells_nothing_may_be_fed() -> None:
    """What sizes the outputs stands behind the last value that tells."""
    source = proto("""g (float[1,900] x, float[900,2] w, int64[n] size) => (float[a,b] y) {
        t = Tanh(x)  m = MatMul(t, w)  s = Softmax(m)  y = Reshape(s, size) }""")
    model = ir.from_proto(source)
    names = telling_values(model)
    assert "y" not in names
    rng = np.random.default_rng(0)
    feed = {"x": rng.normal(size=(1, 900)).astype("f"), "w": rng.normal(size=(900, 2)).astype("f")}
    with open_worker() as worker:
        [[found, *_]] = outputs_of(worker, observed_at(model, names), [feed | {"size": np.array([2, 1])}])
    np.testing.assert_allclose(found, np.tanh(feed["x"]) @ feed["w"], rtol=1e-5)


@pytest.mark.parametrize(
    ("telling", "at_output", "kept"), [(0.9, 0.9, True), (0.9, 1.1, False), (1.1, 0.9, False)]
)
def test_a_form_must_not_be_noisier_where_it_tells_nor_at_the_outputs(
    telling: float, at_output: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), feeds(1)
    first = QuantizeStatic(calibrate(model, data))
    noises = iter([(1.0, 1.0), (telling, at_output)])
    with open_worker() as worker:
        search = module._Search(worker, model, data, first)
        wanted = [[np.array([100.0])]]
        search._reference = wanted, wanted
        monkeypatch.setattr(
            search, "_run", lambda _: tuple([[np.array([100 + 10 * size**0.5])]] for size in next(noises))
        )
        assert search.consider(first, "first")
        second = replace(first, method="mse")
        assert search.consider(second, "second") is kept
    assert search.best is (second if kept else first)
