"""Tensors inside bodies, against what the bodies compute when numpy runs them by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.errors import CalibrationError
from onnxslim.runtime.client import open_worker
from tests.calibration.reference import assert_matches
from tests.models import proto

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    """For all that a single worker does here."""
    with open_worker():
        yield


BRANCH = """
net (float[n, 3] x, bool flag) => (float[n, 3] y)
{
   a = Neg (x)
   b = If (flag) <
      then_branch = yes () => (float[n, 3] t) { inner = Exp (a)  t = Neg (inner) },
      else_branch = no () => (float[n, 3] e) { e = Abs (a) }
   >
   y = Relu (b)
}
"""


def assert_holds(calibration: Calibration, name: str, values: list[np.ndarray], axis: int) -> None:
    """That ``name`` was seen with exactly ``values``, one array per feed that computed it."""
    flat = np.concatenate([value.reshape(-1) for value in values]).astype(np.float64)
    assert calibration.range(name) == pytest.approx((flat.min(), flat.max()), rel=1e-6)
    assert calibration.histogram(name).total == flat.size
    average = np.mean([[value.min(), value.max()] for value in values], axis=0)
    assert calibration.range(name, "moving-average") == pytest.approx(average, rel=1e-6)
    moments = calibration.moments(name)
    assert moments is not None
    rows = [np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1) for value in values]
    wide = np.concatenate(rows, axis=1).astype(np.float64)
    np.testing.assert_allclose(moments.mean, wide.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.variance, wide.var(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 17])
def test_branches(opset: int) -> None:
    xs = [RNG.standard_normal((n, 3)).astype(np.float32) for n in (1, 2, 4, 2)]
    flags = [True, False, True, False]
    feeds = [{"x": x, "flag": np.array(flag)} for x, flag in zip(xs, flags, strict=True)]
    calibration = calibrate(proto(BRANCH, opset=opset), feeds, second_moments=["inner", "t", "e"])
    assert set(calibration.states) == {"x", "a", "b", "y", "inner", "t", "e"} and not calibration.skipped
    taken = [x for x, flag in zip(xs, flags, strict=True) if flag]
    assert_holds(calibration, "inner", [np.exp(-x) for x in taken], 1)
    assert_holds(calibration, "t", [-np.exp(-x) for x in taken], 1)
    assert_holds(calibration, "e", [np.abs(x) for x, flag in zip(xs, flags, strict=True) if not flag], 1)
    outside = calibrate(proto(BRANCH), feeds, tensors=["x", "a", "b", "y"])
    assert_matches(outside, proto(BRANCH), feeds)


def test_a_branch_that_is_never_taken_has_no_range() -> None:
    calibration = calibrate(proto(BRANCH), [{"x": np.ones((1, 3), np.float32), "flag": np.array(True)}])
    assert "inner" in calibration and "e" not in calibration
    with pytest.raises(CalibrationError, match="no sample reached it"):
        calibration.range("e")


def test_chosen_tensors_inside_bodies() -> None:
    feeds = [{"x": np.ones((1, 3), np.float32), "flag": np.array(True)}]
    calibration = calibrate(proto(BRANCH), feeds, tensors=["inner"], second_moments=["inner"])
    assert list(calibration.states) == ["inner"]
    np.testing.assert_allclose(calibration.second_moments("inner"), np.full((3, 3), np.exp(-2)), rtol=1e-6)


SCAN = """
net (float[2] start, float[5, 2] xs) => (float[2] end, float[5, 4] ys)
<float[2, 4] w = {1, 2, 3, 4, -1, -2, -3, -4}>
{
   end, ys = Scan <num_scan_inputs = 1, scan_output_directions = [1],
      body = step (float[2] s, float[2] x) => (float[2] s2, float[4] y) {
         h = Tanh (x)  s2 = Add (s, h)  y = MatMul (s2, w)
      }
   > (start, xs)
}
"""


def test_scans() -> None:
    feeds = [
        {
            "start": RNG.standard_normal(2).astype(np.float32),
            "xs": RNG.standard_normal((5, 2)).astype(np.float32),
        }
        for _ in range(3)
    ]
    calibration = calibrate(proto(SCAN), feeds, second_moments=["h", "y"])
    assert not calibration.skipped
    h = [np.tanh(feed["xs"]) for feed in feeds]
    sums = [feed["start"] + np.cumsum(part, axis=0) for feed, part in zip(feeds, h, strict=True)]
    w = np.array([[1, 2, 3, 4], [-1, -2, -3, -4]])
    assert_holds(calibration, "h", h, 1)
    assert_holds(calibration, "s2", sums, 1)
    assert_holds(calibration, "y", [part @ w for part in sums], 1)


LOOP = """
net (int64 trips, float[2, 3] start) => (float[2, 3] end)
{
   true = Constant <value = bool {1}> ()
   end = Loop (trips, true, start) <
      body = step (int64 i, bool go, float[2, 3] v) => (bool on, float[2, 3] next) {
         on = Identity (go)  half = Constant <value = float {0.5}> ()
         base = Sigmoid (start)  grown = Add (v, base)  next = Mul (grown, half)
      }
   >
}
"""


def test_loops_give_what_keeps_its_shape_and_name_the_rest() -> None:
    start = RNG.standard_normal((2, 3)).astype(np.float32)
    feeds = [{"trips": np.array(n), "start": start} for n in (3, 0, 2)]
    calibration = calibrate(proto(LOOP), feeds, second_moments=["base"])
    base = 1 / (1 + np.exp(-start.astype(np.float64)))
    assert_holds(calibration, "base", [np.stack([base] * n) for n in (3, 2)], 2)
    assert set(calibration.skipped) == {"grown", "next"}
    assert "shape may differ between iterations" in calibration.skipped["next"]


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        (
            "z = If (c) <then_branch = t () => (float[2] p) { p = Exp (x) }, "
            "else_branch = e () => (float[2] q) { q = Abs (x) }>",
            {"p": "not every iteration", "q": "not every iteration", "z": ""},
        ),
        (
            "z = Scan <num_scan_inputs = 1, body = deep (float r) => (float p) { p = Exp (r) }> (x)",
            {"p": "a loop of its own", "z": ""},
        ),
    ],
)
def test_bodies_within_repeating_bodies(inside: str, why: dict[str, str]) -> None:
    text = f"""
    net (bool c, float[4, 2] xs) => (float[4, 2] ys)
    {{
       ys = Scan <num_scan_inputs = 1,
                  body = step (float[2] x) => (float[2] y) {{ {inside}  y = Neg (z) }}> (xs)
    }}
    """
    xs = RNG.standard_normal((4, 2)).astype(np.float32)
    calibration = calibrate(proto(text), [{"c": np.array(True), "xs": xs}], second_moments=["z"])
    for name, reason in why.items():
        assert (name in calibration) == (not reason)
        assert reason in calibration.skipped.get(name, "")
    assert_holds(calibration, "z", [np.exp(xs)], 1)
    with pytest.raises(CalibrationError, match="cannot be observed: it is inside"):
        calibrate(proto(text), [{"c": np.array(True), "xs": xs}], tensors=["p"])


def test_loops_and_branches_within_branches() -> None:
    text = """
    net (bool c, bool d, float[4, 2] xs) => (float[4, 2] ys)
    {
       ys = If (c) <
          then_branch = t () => (float[4, 2] p) {
             p = Scan <num_scan_inputs = 1, body = step (float[2] x) => (float[2] y) {
                e = Exp (x)  y = Neg (e) }> (xs)
          },
          else_branch = f () => (float[4, 2] q) {
             q = If (d) <then_branch = tt () => (float[4, 2] r) { r = Abs (xs) },
                         else_branch = ff () => (float[4, 2] s) { s = Floor (xs) }>
          }>
    }
    """
    xs = [RNG.standard_normal((4, 2)).astype(np.float32) for _ in range(3)]
    flags = [(True, True), (False, True), (False, False)]
    feeds: list[dict[str, Any]] = [
        {"c": np.array(c), "d": np.array(d), "xs": x} for (c, d), x in zip(flags, xs, strict=True)
    ]
    calibration = calibrate(proto(text), feeds, second_moments=list("eprsq"))
    assert not calibration.skipped
    assert_holds(calibration, "e", [np.exp(xs[0])], 1)
    assert_holds(calibration, "p", [-np.exp(xs[0])], 1)
    assert_holds(calibration, "r", [np.abs(xs[1])], 1)
    assert_holds(calibration, "s", [np.floor(xs[2])], 1)
    assert_holds(calibration, "q", [np.abs(xs[1]), np.floor(xs[2])], 1)


def test_bodies_that_hand_nothing_out_are_named() -> None:
    text = """
    net (float[4, 2] x) => (float[4, 2] y)
    {
       parts = SplitToSequence <axis = 0> (x)
       done = SequenceMap <body = each (float[1, 2] p) => (float[1, 2] q) {
          e = Exp (p)  q = Neg (e) }> (parts)
       y = ConcatFromSequence <axis = 0> (done)
    }
    """
    calibration = calibrate(proto(text), [{"x": RNG.standard_normal((4, 2)).astype(np.float32)}])
    assert list(calibration.states) == ["x", "y"] and set(calibration.skipped) == {"e", "q"}
    assert "cannot hand it out" in calibration.skipped["e"]


def test_branches_of_old_operator_sets_are_named() -> None:
    feeds = [{"x": np.ones((1, 3), np.float32), "flag": np.array(True)}]
    calibration = calibrate(proto(BRANCH, opset=10), feeds)
    assert list(calibration.states) == ["x", "a", "b", "y"] and set(calibration.skipped) == {
        "inner",
        "t",
        "e",
    }


def test_two_tensors_of_one_name_are_not_mixed_up() -> None:
    text = BRANCH.replace(
        "float[n, 3] e) { e = Abs (a) }", "float[n, 3] e) { inner = Abs (a)  e = Neg (inner) }"
    )
    calibration = calibrate(proto(text), [{"x": np.ones((1, 3), np.float32), "flag": np.array(True)}])
    assert "inner" not in calibration and "t" in calibration
    assert "another tensor has the same name" in calibration.skipped["inner"]


def test_a_nan_inside_a_body_costs_only_its_tensor() -> None:
    text = BRANCH.replace("inner = Exp (a)  t = Neg (inner)", "inner = Log (a)  t = Relu (a)")
    calibration = calibrate(proto(text), [{"x": np.ones((1, 3), np.float32), "flag": np.array(True)}])
    assert calibration.skipped["inner"].startswith("it is NaN") and "t" in calibration
