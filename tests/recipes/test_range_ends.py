"""Ends of ranges are those with the least noise behind the readers, found here by brute force in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.noise import observed_at
from onnxslim.recipes.range_ends import with_ends
from onnxslim.runtime.client import open_worker
from tests.models import proto, run

RESIDUAL = """g (float[1,8,12,12] x) => (float[1,4,12,12] y) {
    a = Conv(x, w1, b1)  c = Conv(x, w2)  s = Add(a, c)  r = Relu(s)  y = Conv(r, w3) }"""
SHAPES = {"w1": (8, 8, 1, 1), "b1": (8,), "w2": (8, 8, 1, 1), "w3": (4, 8, 1, 1), "m": (8, 8)}


def network(text: str = RESIDUAL) -> ir.Model:
    """What the branch adds is mostly far below zero."""
    rng = np.random.default_rng(0)
    source = proto(text)
    for name, shape in SHAPES.items():
        if name in text:
            array = -12 * rng.random(shape) if name == "b1" else rng.normal(size=shape) / 2
            source.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return ir.from_proto(source)


def feeds(count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, 8, 12, 12)).astype(np.float32)} for _ in range(count)]


def form_of(model: ir.Model, data: list[dict[str, np.ndarray]]) -> QuantizeStatic:
    return QuantizeStatic(calibrate(model, data), placement="all", check=False)


def chosen(
    model: ir.Model, form: QuantizeStatic, data: list[dict[str, np.ndarray]], end: str = "low"
) -> QuantizeStatic:
    with open_worker() as worker:
        return with_ends(worker, model, form, data, end)


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """To uint8 and back."""
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale


def noise(
    model: ir.Model, form: QuantizeStatic, data: list[dict[str, np.ndarray]], value: str = "y"
) -> float:
    """Over signal, at a value as it is read."""
    models = [observed_at(each, [value]) for each in (model, run_steps(model, (form,)).model)]
    pairs = [[run(each, feed)[0] for each in models] for feed in data]
    return float(sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs))


def test_there_is_less_noise_on_data_that_nobody_saw() -> None:
    model, data, unseen = network(), feeds(6), feeds(6, seed=2)
    form = form_of(model, data)
    found = chosen(model, form, data)
    assert noise(model, found, unseen, "r") < 0.8 * noise(model, form, unseen, "r")
    assert noise(model, found, unseen) < 0.95 * noise(model, form, unseen)


def test_the_high_end_is_cut_where_a_few_values_stretch_it() -> None:
    model, data = network(), feeds(6)
    odd = data[0]["x"].copy()
    odd[0, 0, 0, 0] = 200
    form = form_of(model, [*data, {"x": odd}])
    found = chosen(model, form, data, "high")
    assert found.range_of("x")[1] < 0.1 * 200 and found.range_of("x")[0] == form.range_of("x")[0]
    assert found.range_of("y")[1] < 0.1 * form.range_of("y")[1], "an output too"
    assert noise(model, found, data) < 0.5 * noise(model, form, data)


def test_an_activation_is_measured_alone() -> None:
    """The end of one does not depend on how the others are rounded."""
    model, data = network(), feeds(6)
    form = form_of(model, data)
    coarse = replace(form, ranges={"c": tuple(4 * bound for bound in form.range_of("c"))})
    assert chosen(model, form, data).range_of("a") == chosen(model, coarse, data).range_of("a")


def test_biases_hold_while_ranges_of_their_inputs_are_tried() -> None:
    """Their scales are products with that of the input, computed by a node where there are many."""
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
    odd[..., 0] = 100
    form = form_of(model, [*data, {"x": odd}])
    assert sum(node.op_type == "Mul" for node in run_steps(model, (form,)).model.graph) == 2
    found = chosen(model, form, data, "high")
    assert found.range_of("x")[1] < 10, "one odd feed stretches it"
    assert noise(model, found, data) < 0.5 * noise(model, form, data)


@pytest.mark.parametrize(
    "readers",
    [
        "s = Add(a, c)  r = Relu(s)  y = Conv(r, w3)",
        "t = Transpose<perm=[0,1,3,2]>(a)  s = Add(t, c)  r = Relu(s)  y = Conv(r, w3)",
        "s = Mul(a, c)  q = Relu(s)  u = Tanh(q)  r = Neg(u)  y = Conv(r, w3)",
    ],
    ids=["sum", "moved", "floats"],
)
def test_noise_is_followed_to_the_next_value_that_is_rounded(readers: str) -> None:
    model = network(f"{RESIDUAL.partition('s = Add')[0]} {readers} }}")
    data = feeds(4)
    form = form_of(model, data)
    pieces = [observed_at(model, names) for names in (["a"], ["c"], ["r"])]
    a, c, r = (np.stack([run(piece, feed)[0] for feed in data]) for piece in pieces)
    low, high = form.calibration.range("a")

    def behind(a: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(a, -1, -2) if "Transpose" in readers else a
        return -np.tanh(np.maximum(moved * c, 0)) if "Tanh" in readers else np.maximum(moved + c, 0)

    assert np.allclose(behind(a), r, atol=1e-4)
    noises = {f: np.square(behind(rounded(a, low * f, high)) - r).sum() for f in 2 ** (-np.arange(17) / 4)}
    taken = chosen(model, form, data).range_of("a")[0] / low
    nearest = min(noises, key=lambda fraction: abs(fraction - taken))
    assert noises[nearest] <= 1.05 * min(noises.values()), "weights were rounded there, but not here"
    assert noises[nearest] < 0.9 * noises[1.0]


@pytest.mark.parametrize(
    "readers",
    [
        "y = Scan<num_scan_inputs = 1, body = b (float[8,12,12] i) => (float[8,12,12] o) { o = Relu(i) }>(a)",
        "z = RandomUniformLike(a)  y = Add(z, z)",
        "n = ReduceSum(x)  o = Equal(n, n)  y = If(o)<then_branch = t () => (p) { p = Relu(a) }, "
        "else_branch = e () => (q) { q = Abs(x) }>",
        "y = Shape(a)",
    ],
    ids=["loops", "random", "branches", "sizes"],
)
def test_what_cannot_be_copied_reads_the_activation_itself(readers: str) -> None:
    """Then it is its own noise that counts."""
    kind = "int64[4]" if "y = Shape" in readers else "float[1,8,12,12]"
    model = network(f"g (float[1,8,12,12] x) => ({kind} y) {{ a = Conv(x, w1, b1)  {readers} }}")
    data = feeds(4)
    form = form_of(model, data)
    low, high = form.calibration.range("a")
    inner = observed_at(model, ["a"])
    values = np.stack([run(inner, feed)[0] for feed in data])
    noises = [np.square(rounded(values, low * f, high) - values).sum() for f in 2 ** (-np.arange(17) / 4)]
    assert chosen(model, form, data).range_of("a")[0] == pytest.approx(low * 2 ** (-np.argmin(noises) / 4))


def test_what_starts_at_zero_keeps_its_range() -> None:
    model, data = network(), feeds(2)
    form = form_of(model, data)
    found = chosen(model, form, data)
    assert found.range_of("r") == form.range_of("r") and "r" not in found.ranges
