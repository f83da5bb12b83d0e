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
from onnxslim.recipes.noise import noise_to_signal, observed_at, outputs_of, telling_values, typical_noise
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
    rounded = module._rounded(model, best, data)
    assert set(rounded.known) == {"w1_quantized", "w2_quantized", "w3_quantized"}, (
        "scaled as the channels are"
    )
    assert noise(model, best, unseen) < 0.7 * noise(model, single, unseen)
    assert noise(model, single, unseen) <= 1.01 * noise(model, first, unseen)


def test_what_makes_it_worse_on_held_out_data_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges that are far too narrow, which the data they are chosen on do not show."""
    model, data, held_out = network(), feeds(8), feeds(4)
    first = QuantizeStatic(calibrate(model, data), placement="all")
    form = least_noise(model, first, held_out, data)

    def spoilt(_worker: object, _model: object, form: QuantizeStatic, *_: object) -> QuantizeStatic:
        return replace(form, ranges={"x": (-0.01, 0.01)})

    monkeypatch.setattr(module, "with_ends", spoilt)
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


def test_noise_that_is_typical_gives_every_feed_and_output_its_weight() -> None:
    reference = [[np.array([1.0, 1.0]), np.array([2.0])], [np.array([3.0, 1.0]), np.array([2.0])]]
    found = [[np.array([1.0, 1.2]), np.array([2.2])], [np.array([3.5, 1.0]), np.array([2.0])]]
    expected = np.sqrt((0.04 / 2 + 0.04 / 4) * (0.25 / 10 + 0))
    assert typical_noise(reference, found) == pytest.approx(expected)
    assert typical_noise(reference, reference) == 0.0
    assert typical_noise(reference, [found[0], [np.array([np.nan, 1.0]), np.array([2.0])]]) == np.inf


def test_one_feed_that_amplifies_noise_decides_nothing() -> None:
    """Two builds of a form: all feeds but one are better in the first, and that one is chaotic."""
    rng = np.random.default_rng(0)
    reference = [[rng.normal(size=256)] for _ in range(8)]

    def built(size: float, chaotic: float) -> list[list[np.ndarray]]:
        sizes = [size] * 7 + [chaotic]
        noises = [each * np.roll(row[0], 1) for each, row in zip(sizes, reference, strict=True)]
        return [[row[0] + noise] for row, noise in zip(reference, noises, strict=True)]

    better, worse = built(0.02, 0.16), built(0.03, 0.045)
    assert noise_to_signal(reference, better) > noise_to_signal(reference, worse)
    assert typical_noise(reference, better) < typical_noise(reference, worse)


def test_a_feed_that_is_almost_silent_or_equal_by_chance_does_not_decide() -> None:
    reference = [[np.array([100.0])], [np.array([100.0])], [np.array([0.0])]]
    silent = [[np.array([101.0])], [np.array([101.0])], [np.array([0.1])]]
    floor = 1e-3 * (2 * 100.0**2) / 3
    assert typical_noise(reference, silent) == pytest.approx(np.cbrt(1e-4 * 1e-4 * 0.01 / floor))
    equal = [[np.array([101.0])], [np.array([100.0])], [np.array([0.0])]]
    assert typical_noise(reference, equal) == pytest.approx(np.cbrt(1e-4 * 1e-10 * 1e-10))


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
    ("telling", "at_output", "kept"),
    [(0.9, 0.9, True), (0.9, 1.9, True), (0.9, 2.1, False), (1.1, 0.9, False)],
)
def test_a_form_must_not_be_noisier_where_it_tells_nor_much_noisier_at_the_outputs(
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
