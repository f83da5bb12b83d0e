"""Which weights keep 8 bits: the noise that is measured, and what is chosen by it."""

from __future__ import annotations

import math

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.recipes.narrow import inputs_of_weights, noise_of_weights, too_noisy
from onnxslim.runtime.client import open_worker
from tests.models import proto, run

Feeds = list[dict[str, np.ndarray]]


def network(ir_version: int = 10) -> ir.Model:
    """The last product is of a hundredth of the size of what passes it by."""
    source = proto(
        """g (float[n,64] x) => (float[n,64] y) {
            a = MatMul(x, loud) r = Relu(a) b = MatMul(r, quiet) c = MatMul(x, tiny) d = MatMul(c, back)
            s = Add(b, d) y = Add(a, s) }""",
        ir_version=ir_version,
    )
    rng = np.random.default_rng(0)
    for name, shape, size in (
        ("loud", (64, 64), 1),
        ("quiet", (64, 64), 0.01),
        ("tiny", (64, 40), 0.1),
        ("back", (40, 64), 0.1),
    ):
        array = (rng.normal(size=shape) * size).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def feeds(count: int) -> Feeds:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(8, 64)).astype(np.float32)} for _ in range(count)]


PACK = PackWeights(bits=4, block=32)


@pytest.mark.parametrize("ir_version", [3, 10])
def test_noise_is_that_of_the_model_with_this_one_weight_rounded(ir_version: int) -> None:
    model, data = network(ir_version), feeds(3)
    before = ir.to_proto(model).SerializeToString()
    with open_worker() as worker:
        noises = noise_of_weights(worker, model, PACK, data)
    assert ir.to_proto(model).SerializeToString() == before
    wanted = np.concatenate([run(model, feed)[0] for feed in data]).astype(np.float64)
    for name, coded in PACK.narrow(model).items():
        changed = model.clone()
        edit.replace_initializer(changed.graph.initializers[name], coded.decode())
        found = np.concatenate([run(changed, feed)[0] for feed in data])
        expected = np.square(found - wanted).sum() / np.square(wanted).sum()
        assert noises[name] == pytest.approx(expected, rel=1e-3)
    assert set(noises) == {"loud", "quiet", "tiny", "back"}
    assert noises["loud"] > 100 * noises["quiet"]


def test_without_feeds_or_below_what_pays_nothing_is_known() -> None:
    with open_worker() as worker:
        assert set(noise_of_weights(worker, network(), PACK, []).values()) == {math.inf}


def test_the_sum_of_noises_stays_inside_what_is_allowed() -> None:
    rng = np.random.default_rng(0)
    noises = {str(i): float(noise) for i, noise in enumerate(rng.exponential(0.002, 30))}
    sizes = {str(i): int(size) for i, size in enumerate(rng.integers(100, 10000, 30))}
    for db in (10, 20, 30):
        wide = too_noisy(noises, sizes, db)
        assert sum(noise for name, noise in noises.items() if name not in wide) <= 10 ** (-db / 10)
        narrow = set(noises) - set(wide)
        noise, size = (sum(of[n] for n in narrow) for of in (noises, sizes))
        for name in wide:
            too_much = noises[name] + noise > 10 ** (-db / 10)
            assert too_much or noises[name] / sizes[name] > 5 * noise / size
    assert too_noisy({"a": math.inf}, {"a": 1}, 10) == ("a",)


def test_moments_are_asked_for_where_weights_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = network(), feeds(2)
    calibration = inputs_of_weights(model, data)
    assert calibration is not None and set(calibration.states) == {"x", "r", "c"}
    x = np.concatenate([feed["x"] for feed in data]).astype(np.float64)
    np.testing.assert_allclose(calibration.second_moments("x"), x.T @ x / len(x))
    monkeypatch.setattr("onnxslim.recipes.narrow._MOMENTS_BYTES", 8 * 64**2)
    limited = inputs_of_weights(model, data)
    assert limited is not None and len(limited.states) == 1
    assert (
        inputs_of_weights(ir.from_proto(proto("g (float[2] x) => (float[2] y) { y = Relu(x) }")), []) is None
    )
