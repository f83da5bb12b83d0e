"""Verification: each promise holds exactly as far as it says, and odd outputs are judged soundly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxslim.errors import OptionError
from onnxslim.measure.differences import Difference, signal_to_noise
from onnxslim.measure.verify import verify
from onnxslim.passes.base import Promise
from onnxslim.runtime.client import open_worker
from tests.models import proto

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module", autouse=True)
def worker() -> Any:
    with open_worker(wall_s=30) as worker:
        yield worker


def difference(reference: Any, value: Any) -> Difference:
    found = Difference()
    found.add(reference, value)
    return found


@pytest.mark.parametrize(
    ("reference", "value", "bit_equal", "close"),
    [
        ([1.0, NAN], [1.0, NAN], True, True),
        ([0.0], [-0.0], False, True),
        ([INF, 1.0], [INF, 1.0], True, True),
        ([INF], [-INF], False, False),
        ([1.0], [NAN], False, False),
        ([NAN], [1.0], False, False),
        ([INF], [3e38], False, False),
        ([10.0, 0.0], [10.0, 1.0005e-3], False, True),
        ([10.0, 0.0], [10.0, 1.002e-3], False, False),
        ([0.0], [0.9e-6], False, True),
        ([0.0], [1.1e-6], False, False),
        ([], [], True, True),
    ],
)
def test_numbers(reference: list[float], value: list[float], bit_equal: bool, close: bool) -> None:
    found = difference(np.array(reference), np.array(value))
    assert (found.bit_equal, found.close) == (bit_equal, close)


def test_any_nan_equals_any_nan() -> None:
    payload = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert difference(np.array([NAN], np.float32), payload).bit_equal


@given(
    hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e3, 1e3, width=32)),
    st.floats(0, 0.3),
)
@settings(max_examples=60, deadline=None)
def test_figures_agree_with_their_formulas(reference: np.ndarray[Any, Any], noise: float) -> None:
    value = (reference * np.float32(1 + noise)).astype(np.float32)
    found = difference(reference, value)
    ref, got = reference.astype(np.float64), value.astype(np.float64)
    assert found.max_abs_diff == np.abs(ref - got).max() and found.ref_max == np.abs(ref).max()
    assert found.close == (found.max_abs_diff <= 1e-4 * found.ref_max + 1e-6)
    assert found.bit_equal == (reference.tobytes() == value.tobytes())
    power = np.sum((ref - got) ** 2)
    expected = math.inf if power == 0 else 10 * np.log10(np.sum(ref**2) / power)
    assert signal_to_noise(reference, value) == pytest.approx(expected)


def test_a_small_feed_is_not_excused_by_a_large_one() -> None:
    found = difference(np.array([1e6]), np.array([1e6]))
    found.add(np.array([1.0]), np.array([1.01]))
    assert not found.close


@pytest.mark.parametrize(
    ("reference", "value", "equal"),
    [
        (np.array(["a", "b"], object), np.array(["a", "b"], object), True),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), False),
        ([np.ones(2), np.ones(3)], [np.ones(2), np.ones(3)], True),
        ([np.ones(2)], [np.ones(2), np.ones(2)], False),
        ([], [], True),
        (None, None, True),
        (None, np.ones(1), False),
        (np.ones(1), [np.ones(1)], False),
        ([{"a": 1.0}], [{"a": 1.0}], True),
        ([{"a": 1.0}], [{"a": 2.0}], False),
        (np.ones(2), np.ones((2, 1)), False),
        (np.ones(2), np.ones(2, np.float32), False),
        (np.array(True), np.array(True), True),
        (np.array([2**62]), np.array([2**62 + 1]), False),
        (np.array([1 + 2j]), np.array([1 + 2j]), True),
    ],
)
def test_structures(reference: Any, value: Any, equal: bool) -> None:
    assert difference(reference, value).bit_equal is equal


X = {"x": np.array([1, -2], np.float32)}
NEG = proto("g (float[2] x) => (float[2] y) { y = Neg(x) }")


def scaled(factor: float) -> Any:
    return proto(
        f"g (float[2] x) => (float[2] y) {{ f = Constant<value_float={-factor!r}>() y = Mul(x, f) }}"
    )


@pytest.mark.parametrize(
    ("candidate", "promise", "ok"),
    [
        (scaled(1.0), Promise.EXACT, True),
        (scaled(1.00001), Promise.EXACT, False),
        (scaled(1.00001), Promise.CLOSE, True),
        (scaled(1.001), Promise.CLOSE, False),
        (scaled(3.0), "lossy", True),
        (scaled(math.inf).__class__(), "lossy", False),  # an empty model does not load
    ],
)
def test_promises(candidate: Any, promise: Any, ok: bool) -> None:
    found = verify(NEG, candidate, [X], promise=promise)
    assert (found.ok, found.verified) == (ok, True) and bool(found.reason) != ok


def test_lossy_does_not_excuse_new_infinities() -> None:
    zero = proto(
        "g (float[2] x) => (float[2] y) { f = Constant<value_float=0.0>() n = Neg(x) y = Div(n, f) }"
    )
    found = verify(NEG, zero, [X], promise="lossy")
    assert not found.ok and "finite" in found.reason


def test_what_cannot_be_compared() -> None:
    random = proto("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = RandomUniformLike(x) }")
    found = verify(random, random, [X], promise="exact")
    assert found.ok and [output.name for output in found.outputs] == ["y"]
    assert "RandomUniformLike" in found.to_dict()["unverifiable"]["z"]
    named = verify(random, NEG, [X], promise="exact", unverifiable={"z": "my reason"})
    assert not named.ok and "'z'" in named.reason  # it must still be there


def test_an_original_that_does_not_run_is_not_verified() -> None:
    wrong = {"x": np.ones(3, np.float32)}
    found = verify(NEG, NEG, [wrong], promise="exact")
    assert found.ok and not found.verified and "the original does not run on feed 0" in found.reason
    assert verify(NEG, NEG, [wrong, X], promise="exact").samples == 1
    assert not verify(NEG, NEG, [], promise="exact").verified


def test_a_crash_is_blamed_on_the_right_model() -> None:
    text = "g (int64[1] x, int64[1] m) => (int64[1] y) {{ y = {}(x, m) }}"
    divides, other = proto(text.format("Div")), proto(text.format("Max"))
    feed = {"x": np.array([np.iinfo(np.int64).min]), "m": np.array([-1])}
    found = verify(divides, other, [feed], promise="exact")
    assert found.ok and not found.verified and "SIGFPE" in found.reason
    found = verify(other, divides, [feed], promise="exact")
    assert not found.ok and "candidate" in found.reason and "SIGFPE" in found.reason


def test_a_lost_output_and_a_new_input_are_found() -> None:
    two = proto("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Abs(x) }")
    assert "'z'" in verify(two, NEG, [X], promise="lossy").reason
    more = proto("g (float[2] x, float[2] w) => (float[2] y) { y = Sub(w, x) }")
    assert not verify(NEG, more, [X], promise="lossy").ok


def test_an_unknown_promise_is_an_option_error() -> None:
    with pytest.raises(OptionError):
        verify(NEG, NEG, [X], promise="nearly")
