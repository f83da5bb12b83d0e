"""Weights that are nearly equal: what is stored, what the runtime makes of it, how far it is off."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import collect_declines
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.fold_constants import FoldConstants
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.merge_similar_weights import MergeSimilarWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.runtime.kernels import executed
from tests.models import proto, run
from tests.passes.test_few_bits import NET, WEIGHTS

TWO = "g (float[4,64] x) => (float[4,64] y) { a = MatMul(x, v) b = Relu(a) y = MatMul(b, w) }"
ONE = "g (float[4,96] x) => (float[4,80] y) { y = MatMul(x, w) }"


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def near(weight: np.ndarray, error: float, seed: int = 9) -> np.ndarray:
    noise = normal(*weight.shape, seed=seed)
    noise *= error * np.linalg.norm(weight) / np.linalg.norm(noise)
    return (weight + noise).astype(np.float32)


def built(text: str, **weights: np.ndarray) -> ir.Model:
    source = proto(text)
    for name, weight in weights.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    return ir.from_proto(source)


def merged(model: ir.Model, **options: object) -> ir.Model:
    """With what must be true of every result."""
    result, step = model.clone(), MergeSimilarWeights(**options)  # type: ignore[arg-type]
    assert step(result).modified and serialized_size(result) < serialized_size(model)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    assert not step(result).modified, "a second time there is nothing to do"
    for level in ("basic", "all"):
        assert executed(result, optimize=level).histogram == executed(model, optimize=level).histogram
    return result


def decoded(model: ir.Model, name: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    message = ir.to_proto(model)
    message.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    [weight] = run(message, feed, [name])
    return weight


def off(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Relative error of each row, in float64."""
    wide = wanted.astype(np.float64)
    return np.linalg.norm(wide - found, axis=-1) / np.linalg.norm(wide, axis=-1)


@pytest.mark.parametrize("factor", [1.0, -0.37])
def test_whole_weights_become_one(factor: float) -> None:
    v = normal(64, 64)
    model = built(TWO, v=v, w=near(factor * v, 5e-4))
    result = merged(model)
    assert [n for n, each in result.graph.initializers.items() if each.shape and each.const_value.size > 1] in (
        ["v"],
        ["w"],
    )
    feed = {"x": normal(4, 64, seed=3)}
    [one], [other] = run(model, feed), run(result, feed)
    assert np.linalg.norm(one - other) < 2e-3 * np.linalg.norm(one)
    assert not MergeSimilarWeights(tolerance=1e-4)(model.clone()).modified
    if factor != 1:
        assert not MergeSimilarWeights(to="equals", block=0)(model.clone()).modified


@pytest.mark.parametrize("to", ["multiples", "equals"])
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns(axis: int, to: str) -> None:
    rows = np.repeat(normal(10, 96 if axis else 80), 8 if axis else 10, axis=0)[: 80 if axis else 96]
    rows = np.random.default_rng(1).permutation(near(rows, 1e-4))
    if to == "multiples":
        rows *= np.random.default_rng(2).uniform(0.5, 2, (len(rows), 1)).astype(np.float32)
    weight = rows.T.copy() if axis else rows
    model = built(ONE, w=weight)
    result = merged(model, to=to)
    assert result.graph.initializers["w_t"].const_value.size == 10 * rows.shape[1]
    found = decoded(result, "w_w", {"x": normal(4, 96)})
    assert off(rows, found.T if axis else found).max() <= 1e-3


def test_filters_and_runs() -> None:
    filters = np.repeat(normal(8, 16 * 9), 4, axis=0).reshape(32, 16, 3, 3)
    model = built(
        "g (float[1,16,6,6] x) => (float[1,32,4,4] y) { y = Conv(x, w) }", w=near(filters, 1e-5)
    )
    result = merged(model)
    found = decoded(result, "w_w", {"x": normal(1, 16, 6, 6)})
    assert off(filters.reshape(32, -1), found.reshape(32, -1)).max() <= 2e-3
    runs = np.random.default_rng(5).choice(7, 480)
    model = built(ONE, w=normal(7, 16)[runs].reshape(96, 80))
    result = merged(model, block=16)
    assert result.graph.initializers["w_t"].const_value.size == 7 * 16
    np.testing.assert_array_equal(
        decoded(result, "w_w", {"x": normal(4, 96)}), normal(7, 16)[runs].reshape(96, 80)
    )


@given(
    st.integers(2, 40),
    st.sampled_from([1e-3, 1e-2, 0.2]),
    st.sampled_from(["multiples", "equals"]),
    st.integers(0, 2**31),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_the_bound_holds_whatever_the_weights(kinds: int, tolerance: float, to: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(kinds, 80))[random.integers(kinds, size=96)]
    rows += random.normal(size=rows.shape) * random.choice([0, tolerance / 2, 2 * tolerance], (96, 1))
    rows[random.random(96) < 0.1] = 0
    model = built(ONE, w=rows)
    result = model.clone()
    if not MergeSimilarWeights(tolerance=tolerance, to=to, block=0)(result).modified:  # type: ignore[arg-type]
        return
    found, wanted = decoded(result, "w_w", {"x": normal(4, 96)}), rows.astype(np.float32).astype(np.float64)
    for lines in ((wanted, found), (wanted.T, found.T)):
        lost = np.linalg.norm(lines[0] - lines[1], axis=1)
        if np.all(lost <= tolerance * np.linalg.norm(lines[0], axis=1) + 1e-12):
            return
    pytest.fail("neither the rows nor the columns are within the bound")


def test_other_passes_leave_the_stored_form_alone() -> None:
    rows = np.repeat(normal(10, 80), 10, axis=0)[:96] * np.linspace(1, 2, 96, dtype=np.float32)[:, None]
    result = merged(built(ONE, w=rows))
    stored = ir.to_proto(result).SerializeToString()
    for other in (HalveWeights(min_sqnr_db=0), PackWeights(min_sqnr_db=0), CodebookWeights(min_sqnr_db=0)):
        assert not other(result).modified, other.name
    assert ir.to_proto(result).SerializeToString() == stored
    FoldConstants()(result)
    assert "w_q" in result.graph.initializers


def test_what_is_left_alone() -> None:
    model = built(NET, **{name: normal(*shape) for name, shape in WEIGHTS.items()})
    assert not MergeSimilarWeights()(model).modified, "nothing is similar"
    with collect_declines() as log:
        assert not MergeSimilarWeights()(built(ONE, w=np.full((96, 80), np.inf))).modified
    assert "not finite" in log.entries[0].reason
    for options in ({"tolerance": 0.0}, {"tolerance": 1.0}, {"to": "x"}, {"block": -1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            MergeSimilarWeights(**options)  # type: ignore[arg-type]
