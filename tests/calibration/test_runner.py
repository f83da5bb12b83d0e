"""Calibrating models: every tensor's state against onnxruntime's own values, judged by numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim.calibration import executor
from onnxslim.calibration.data import random_feeds
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import CalibrationError, ResourceError
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.values import TensorInfo
from tests.calibration.reference import CONV, assert_matches, images, same_bits
from tests.models import model, proto, run

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("batch", [None, 4])
def test_states_match_the_values_that_onnxruntime_computes(batch: int | None) -> None:
    data = images(37)
    calibration = calibrate(proto(CONV), {"x": data}, batch=batch)
    assert list(calibration.states) == ["x", "c", "r", "s", "y"]  # no constants, no shapes
    step = batch or 1
    assert_matches(calibration, proto(CONV), [{"x": data[i : i + step]} for i in range(0, 37, step)])
    moments = calibration.moments("x")
    assert moments is not None and len(moments.mean) == 2
    assert calibration.samples == -(-37 // step) and not calibration.is_random


def test_ragged_feeds() -> None:
    feeds = [{"x": images(1, height)} for height in (2, 5, 3)]
    calibration = calibrate(model(CONV), feeds, tensors=["x", "c", "r", "s", "y"])
    assert_matches(calibration, proto(CONV), feeds)
    assert calibration.moments("y") is None  # flattened: the number of channels differs
    assert calibration.moments("r") is not None


def test_the_callers_model_is_not_changed() -> None:
    parsed, graph = proto(CONV), model(CONV)
    before = parsed.SerializeToString(), [value.name for value in graph.graph.outputs]
    calibrate(parsed, {"x": images(2)})
    calibrate(graph, {"x": images(2)})
    assert (parsed.SerializeToString(), [value.name for value in graph.graph.outputs]) == before


def test_bits_do_not_depend_on_how_a_chunk_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"x": images(40)}
    whole = calibrate(proto(CONV), data)
    assert same_bits(whole, calibrate(proto(CONV), data))
    monkeypatch.setattr(executor, "_MESSAGE_BYTES", 3 * data["x"][0].nbytes)
    assert same_bits(whole, calibrate(proto(CONV), data))


def test_progress_is_told() -> None:
    seen: list[tuple[int, int | None]] = []
    calibrate(proto(CONV), {"x": images(20)}, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, 20) and seen == sorted(set(seen))
    seen.clear()
    calibrate(proto(CONV), lambda: iter([{"x": images(1)}]), progress=lambda *state: seen.append(state))
    assert seen == [(1, None)]


def test_chosen_tensors() -> None:
    calibration = calibrate(proto(CONV), {"x": images(3)}, tensors=["r", "x"])
    assert list(calibration.states) == ["x", "r"]
    for name, why in (
        ("q", "no such tensor"),
        ("w", "constant"),
        ("doubled", "constant"),
        ("size", "no floats"),
    ):
        with pytest.raises(CalibrationError, match=why):
            calibrate(proto(CONV), {"x": images(3)}, tensors=[name])


def test_moments_are_kept_of_what_weights_are_multiplied_with() -> None:
    text = """
    net (float[2, 3, 4] a, float[2, 3, 3] b) => (float[2, 4, 2] y, float[2, 3, 4] z)
    <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[3] half = {0.5, 0.5, 0.5}>
    {
       e = Exp (a)
       t = Transpose <perm = [0, 2, 1]> (e)
       v = Transpose <perm = [1, 0]> (w)
       k = Transpose <perm = [1, 0]> (v)
       y = MatMul (t, k)
       l = Exp (b)
       z = MatMul (l, e)
    }
    """
    feeds = [{"a": np.ones((2, 3, 4), np.float32), "b": np.ones((2, 3, 3), np.float32)}]

    def kept(**options: Any) -> list[str]:
        calibration = calibrate(proto(text), feeds, **options)
        return [name for name in calibration.states if calibration.moments(name) is not None]

    assert kept() == ["a", "b", "e", "t"]  # l is only multiplied with what is computed
    assert kept(second_moments=["l"]) == ["a", "b", "e", "t", "l"]
    assert kept(tensors=["z", "b"]) == ["b", "z"]


def test_sequences_and_other_types_are_left_out() -> None:
    text = """
    net (float[n, 4] x) => (float[n, 2] y)
    { parts = SplitToSequence <axis = 1> (x, two)  zero = Constant <value = int64 {0}> ()
      first = SequenceAt (parts, zero)  d = Cast <to = 11> (first)  y = Cast <to = 1> (d) }
    """.replace("=> (float[n, 2] y)", "=> (float[n, 2] y) <int64 two = {2}>")
    feeds = [{"x": RNG.standard_normal((1, 4)).astype(np.float32)} for _ in range(3)]
    calibration = calibrate(proto(text), feeds)
    assert list(calibration.states) == ["x", "first", "d", "y"]
    assert_matches(calibration, proto(text), feeds)


def test_functions_are_observed_from_outside() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    net (float[2] x) => (float[2] y) { a = own.twice (x)  y = Neg (a) }
    <domain: "own", opset_import: ["" : 17]> twice (v) => (w) { w = Add (v, v) }
    """
    feeds = [{"x": np.float32([1, -2])}]
    assert_matches(calibrate(proto(text), feeds), proto(text), feeds)


MASKED = """
net (float[2] x, float[2] mask) => (float[2] y)
{ masked = Log (mask)  a = Add (x, masked)  y = Exp (a) }
"""


def test_infinite_activations_are_skipped_and_named() -> None:
    x = np.float32([1, -2])
    feeds = [{"x": x, "mask": np.ones(2, np.float32)}, {"x": x, "mask": np.float32([1, 0])}]
    calibration = calibrate(proto(MASKED), feeds)
    assert list(calibration.states) == ["x", "mask", "y"]
    assert "Inf" in calibration.skipped["masked"] and "sample 1" in calibration.skipped["masked"]
    assert calibration.range("y") == (0.0, pytest.approx(np.e))


def test_a_nan_that_reaches_an_output_names_the_sample_and_its_source() -> None:
    x = np.float32([1, -2])
    feeds = [{"x": x, "mask": np.float32([1, m])} for m in (1, 1, -1)]
    with pytest.raises(CalibrationError, match="'y' is NaN; NaN appears first in 'masked'") as caught:
        calibrate(proto(MASKED), feeds)
    assert "sample 2" in str(caught.value)


def test_a_nan_inside_that_the_model_removes_costs_only_its_tensor() -> None:
    text = """
    net (float[2] x) => (float[2] y)
    { l = Log (x)  bad = IsNaN (l)  y = Where (bad, x, l) }
    """
    calibration = calibrate(proto(text), [{"x": np.float32([1, -2])}])
    assert list(calibration.states) == ["x", "y"]
    assert calibration.skipped["l"].startswith("it is NaN")


def test_a_sample_on_which_the_model_fails_is_named() -> None:
    text = "net (float[n, 2] x, int64[k] i) => (float[k, 2] y) { y = Gather (x, i) }"
    x = np.zeros((3, 2), np.float32)
    feeds = [{"x": x, "i": np.array([i])} for i in (0, 2, 7)]
    with pytest.raises(CalibrationError, match="cannot be calibrated on a sample") as caught:
        calibrate(proto(text), feeds)
    assert "sample 2" in str(caught.value)


def test_a_sample_that_kills_the_runtime_is_named() -> None:
    text = "net (int64[1] a, int64[1] b) => (float[1] y) { q = Div (a, b)  y = Cast <to = 1> (q) }"
    feeds = [{"a": np.array([a]), "b": np.array([-1])} for a in (5, 6, np.iinfo(np.int64).min, 7)]
    with pytest.raises(ResourceError, match="died") as caught:
        calibrate(proto(text), feeds)
    assert "sample 2" in str(caught.value)


def test_activations_beyond_the_memory_limit_are_a_clear_error() -> None:
    text = """
    net (int64[1] n) => (float y)
    { big = ConstantOfShape <value = float[1] {1.0}> (n)  y = ReduceSum <keepdims = 0> (big) }
    """
    with open_worker(budget_bytes=256 << 20), pytest.raises(ResourceError, match="memory") as caught:
        calibrate(proto(text), [{"n": np.array([10])}, {"n": np.array([1 << 30])}])
    assert "sample 1" in str(caught.value)


def test_states_that_travel_from_feed_to_feed() -> None:
    text = """
    net (float[n, 3] x, float[n, 2] h, int64 rate) => (float[n, 2] y, float[n, 2] next)
    <float[3, 2] w = {1, 2, 3, 4, 5, 6}>
    { z = MatMul (x, w)  sum = Add (z, h)  next = Tanh (sum)  y = Neg (next) }
    """
    feeds, h = [], np.zeros((2, 2), np.float32)
    for _ in range(20):
        feed = {"x": RNG.standard_normal((2, 3)).astype(np.float32), "h": h, "rate": np.array(16000)}
        feeds.append(feed)
        h = run(proto(text), feed, ["next"])[0]
    calibration = calibrate(proto(text), feeds)
    assert list(calibration.states) == ["x", "h", "z", "sum", "next", "y"]
    assert_matches(calibration, proto(text), feeds)


def test_random_data_is_said_to_be_random() -> None:
    calibration = calibrate(proto(CONV), "random", samples=3, seed=9)
    assert calibration.is_random and "random" in calibration.data and calibration.seed == 9
    feeds = random_feeds([TensorInfo("x", "float32", ("n", 2, "h", 5))], 3, 9)
    assert_matches(calibration, proto(CONV), list(feeds))


def test_narrow_and_wide_floats() -> None:
    text = """
    net (float16[1, 3] x) => (double[1, 3] y)
    { a = Neg (x)  b = Cast <to = 11> (a)  y = Mul (b, b) }
    """
    feeds = [{"x": RNG.standard_normal((1, 3)).astype(np.float16)} for _ in range(4)]
    assert_matches(calibrate(proto(text), feeds), proto(text), feeds)


def test_inputs_of_types_that_numpy_lacks_are_refused() -> None:
    text = "net (bfloat16[2] x) => (float[2] y) { y = Cast <to = 1> (x) }"
    with pytest.raises(CalibrationError, match="'x' is bfloat16"):
        calibrate(proto(text), [{"x": np.ones(2, np.float32)}])


def test_channels_lie_where_the_weight_says() -> None:
    text = (
        """
    net (float[1, 4, 6] x) => (float[1, 4, 3] y)
    <float[6, 3] w = {"""
        + ", ".join(["0.5"] * 18)
        + """}, float[5, 4, 1] k = {"""
        + ", ".join(["1"] * 20)
        + """}>
    { y = MatMul (x, w)  z = Conv (x, k)  u = Relu (z) }
    """
    )
    feeds = [{"x": RNG.standard_normal((1, 4, 6)).astype(np.float32)}]
    calibration = calibrate(proto(text), feeds, tensors=["x", "y", "z", "u"])
    widths = {name: len(state.moments.mean) for name, state in calibration.states.items() if state.moments}
    assert widths == {"x": 6, "y": 3, "z": 5, "u": 5}
