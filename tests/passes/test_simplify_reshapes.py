"""A constant shape must do what the computed one did, for every size: onnxruntime is the judge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes.simplify_reshapes import SimplifyReshapes
from tests import models


def shape_of(model: ir.Model) -> list[int] | None:
    (node,) = [node for node in model.graph if node.op_type == "Reshape"]
    content = edit.constant_value(node.inputs[1])
    return None if content is None else content.tolist()


def judge(text: str, expected: list[int] | None, *shapes: tuple[int, ...]) -> None:
    model = models.model(text)
    before = ir.from_proto(ir.to_proto(model))
    assert SimplifyReshapes()(model).modified == (expected is not None)
    assert shape_of(model) == expected
    for shape in shapes:
        feed = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        assert models.bit_equal(models.run(before, feed)[0], models.run(model, feed)[0])


HEADS = """g (float[b, t, 12] x) => (float[p, q, r, s] y) {{
    shape = Shape(x) zero = Constant<value_ints=[0]>() one = Constant<value_ints=[1]>()
    b = Gather(shape, zero) t = Gather(shape, one) {rest} }}"""


def test_dimensions_at_their_place_are_copied_also_when_they_are_empty() -> None:
    rest = "h = Constant<value_ints=[3, 4]>() s = Concat<axis=0>(b, t, h) y = Reshape(x, s)"
    judge(HEADS.format(rest=rest), [0, 0, 3, 4], (2, 5, 12), (1, 1, 12), (0, 5, 12), (2, 0, 12))


def test_a_dimension_of_the_same_name_is_copied() -> None:
    rest = """m = Neg(x) h = Constant<value_ints=[4, 3]>() s = Concat<axis=0>(b, t, h) y = Reshape(m, s)"""
    judge(HEADS.format(rest=rest), [0, 0, 4, 3], (2, 5, 12), (3, 1, 12))


def test_a_single_unknown_element_is_inferred() -> None:
    text = """g (float[b, 12] x) => (float[p, q] y) {
        s0 = Shape<start=0, end=1>(x) two = Constant<value_ints=[2]>() d = Mul(s0, two)
        six = Constant<value_ints=[6]>() s = Concat<axis=0>(d, six) y = Reshape(x, s) }"""
    judge(text, [-1, 6], (2, 12), (1, 12))


def test_dimensions_out_of_place_are_not_copied() -> None:
    rest = "h = Constant<value_ints=[3, 4]>() s = Concat<axis=0>(t, b, h) y = Reshape(x, s)"
    judge(HEADS.format(rest=rest), None)


def test_copying_and_inferring_are_not_mixed() -> None:
    """With an empty batch the inferred element would be anything."""
    rest = """two = Constant<value_ints=[2]>() d = Mul(t, two) h = Constant<value_ints=[1, 6]>()
        s = Concat<axis=0>(b, d, h) y = Reshape(x, s)"""
    judge(HEADS.format(rest=rest), None)


def test_where_zero_means_zero_nothing_is_copied() -> None:
    rest = "h = Constant<value_ints=[3, 4]>() s = Concat<axis=0>(b, t, h) y = Reshape<allowzero=1>(x, s)"
    judge(HEADS.format(rest=rest), None)


def test_a_shape_that_others_read_stays() -> None:
    rest = "h = Constant<value_ints=[3, 4]>() s = Concat<axis=0>(b, t, h) y = Reshape(x, s) other = Neg(s)"
    judge(HEADS.format(rest=rest), None)


def test_what_is_known_whole_is_left_to_folding() -> None:
    text = "g (float[2, 12] x) => (float[2, 12] y) { n = Neg(x) s = Shape(x) y = Reshape(n, s) }"
    judge(text, None)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_mixture_of_dimensions_and_numbers(data: st.DataObject) -> None:
    """Shapes concatenated from dimensions of the input, numbers and -1; whatever runs before runs after."""
    parts = data.draw(st.lists(st.sampled_from(["b", "t", "n2", "n3", "n12", "minus"]), min_size=1, max_size=4))
    rest = f"s = Concat<axis=0>({', '.join(parts)}) y = Reshape(x, s)"
    numbers = "".join(
        f"{name} = Constant<value_ints=[{n}]>() "
        for name, n in (("n2", 2), ("n3", 3), ("n12", 12), ("minus", -1))
    )
    text = HEADS.format(rest=numbers + rest).replace("[p, q, r, s]", "[" + ", ".join("pqrs"[: len(parts)]) + "]")
    before, after = models.model(text), models.model(text)
    SimplifyReshapes()(after)
    for shape in ((2, 3, 12), (1, 1, 12), (0, 2, 12), (2, 0, 12)):
        feed = {"x": np.ones(shape, np.float32)}
        try:
            want = models.run(before, feed)[0]
        except (Fail, InvalidArgument, RuntimeException):
            continue  # not a valid reshape of this input
        assert models.bit_equal(want, models.run(after, feed)[0])


def test_a_shape_computed_inside_a_branch() -> None:
    text = """g (bool c, float[b, 6] x) => (float[p, q, r] y) {
        y = If (c) <
            then_branch = t () => (float[p, q, r] u) {
                s0 = Shape<start=0, end=1>(x) d = Constant<value_ints=[2, 3]>()
                s = Concat<axis=0>(s0, d) u = Reshape(x, s) },
            else_branch = e () => (float[p, q, r] v) {
                k = Constant<value_ints=[-1, 3, 2]>() v = Reshape(x, k) }
        > }"""
    model = models.model(text)
    before = ir.from_proto(ir.to_proto(model))
    assert SimplifyReshapes()(model).modified
    for condition in (True, False):
        feed = {"c": np.array(condition), "x": np.arange(12, dtype=np.float32).reshape(2, 6)}
        assert models.bit_equal(models.run(before, feed)[0], models.run(model, feed)[0])


@pytest.mark.parametrize("text", ["g (float[2] x) => (float[2] y) { y = Relu(x) }"])
def test_nothing_to_do(text: str) -> None:
    assert not SimplifyReshapes()(models.model(text)).modified
