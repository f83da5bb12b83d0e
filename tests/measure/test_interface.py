"""Two models of which one takes integers get the same numbers, whatever the feed is made of."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.measure.metrics import resolve
from onnxslim.measure.verify import verify
from onnxslim.model.encoding import Encoding, encodings
from onnxslim.passes import IntegerIo
from onnxslim.runtime.client import open_worker
from tests.models import model, run

TEXT = """g (float[1,8] x) => (float[1,8] y)
    <float s = {0.25}, uint8 z = {7}, float t = {0.5}, int8 n = {-1}> {
    q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  a = Abs(d)
    p = QuantizeLinear(a, t, n)  y = DequantizeLinear(p, t, n) }"""


def pair() -> tuple[ir.Model, ir.Model]:
    other = model(TEXT)
    assert IntegerIo()(other).modified
    return model(TEXT), other


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("kind", ["floats", "integers"])
def test_both_get_the_same_numbers(swap: bool, kind: str) -> None:
    one, two = reversed(pair()) if swap else pair()
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 8)).astype(np.float32) * 9
    feed = {"x": values if kind == "floats" else rng.integers(0, 256, (1, 8), np.uint8)}
    assert verify(one, two, [feed], promise="exact").ok


def test_a_wrong_encoding_is_found() -> None:
    one, two = pair()
    two.metadata_props["input.x.zero_point"] = "9"
    found = verify(one, two, [{"x": np.ones((1, 8), np.float32)}], promise="exact")
    assert found.verified and not found.ok


def test_floats_are_quantized_for_a_model_of_integers() -> None:
    _, two = pair()
    floats = np.linspace(-9, 99, 8, dtype=np.float32).reshape(1, 8)
    integers = np.clip(np.rint(floats / np.float32(0.25)) + 7, 0, 255).astype(np.uint8)
    with open_worker() as worker, worker.load(two) as session:
        assert session.run({"x": floats})[0].tobytes() == run(two, {"x": integers})[0].tobytes()


def test_metrics_read_floats() -> None:
    one, two = pair()
    feeds = [{"x": np.random.default_rng(seed).normal(size=(1, 8)).astype(np.float32)} for seed in range(4)]
    assert resolve("agreement", original=one, feeds=feeds).score(two).value == pytest.approx(1.0)


def test_nonsense_in_metadata_is_no_encoding() -> None:
    hostile = {
        **{"input.a.scale": "nan", "input.a.zero_point": "0"},
        **{"input.b.scale": "-1", "input.b.zero_point": "0"},
        **{"input.c.scale": "1", "input.c.zero_point": "9" * 9999},
        **{"input.d.scale": "1e999", "input.d.zero_point": "0", "input.e.zero_point": "0"},
        **{"input..scale": "1", "input..zero_point": "\u0663", "output.f.scale": "1"},
        **{"input.good.scale": "2", "input.good.zero_point": "-3"},
    }
    assert encodings(hostile, "input") == {"good": Encoding(2.0, -3)} and not encodings(hostile, "output")
