"""Scales of activations: which are trained, by which gradient, and that biases of integers follow them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.distillation.forms import Coded
from onnxslim.distillation.quantizers import StepSize
from onnxslim.distillation.students import Student, find_student
from onnxslim.model import edit
from onnxslim.passes.fold_constants import FoldConstants
from onnxslim.runtime.client import open_worker
from tests.distillation.nets import with_arrays
from tests.models import run

Array = np.ndarray[Any, Any]

_RNG = np.random.default_rng(4)
_HEAD = "g (float[n,6] x) => (float[n,4] y)"
_INPUT = "q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  w = DequantizeLinear<axis = 1>(wq, ws)"
_GEMM = "o = Gemm(d, w, b)  p = QuantizeLinear(o, t, u)  y = DequantizeLinear(p, t, u)"
BIASES = {
    "computed": "bs = Mul(ws, s)  b = DequantizeLinear<axis = 0>(bq, bs)",
    "stored": "b = DequantizeLinear<axis = 0>(bq, bs)",
}


def parts(**more: Array) -> dict[str, Array]:
    found: dict[str, Array] = {
        "s": np.array(0.02, "f"),
        "z": np.array(128, np.uint8),
        "wq": _RNG.integers(-127, 128, (6, 4)).astype(np.int8),
        "ws": _RNG.uniform(0.005, 0.01, 4).astype("f"),
        "bq": _RNG.integers(-9000, 9000, 4).astype(np.int32),
        "t": np.array(0.07, "f"),
        "u": np.array(100, np.uint8),
    }
    return {**found, **more}


def net(bias: str, **more: Array) -> ir.Model:
    arrays = parts(**more)
    if bias == "stored":
        arrays.setdefault("bs", (arrays["ws"] * arrays["s"]).astype("f"))
    return with_arrays(f"{_HEAD} {{ {_INPUT} {BIASES[bias]} {_GEMM} }}", arrays)


def student_of(model: ir.Model) -> Student:
    with open_worker() as worker:
        return find_student(worker, model)


def content(model: ir.Model, name: str) -> Array:
    found = edit.constant_value(model.graph.initializers[name])
    assert found is not None
    return found


def grow(student: Student, name: str, factor: float) -> None:
    """Let a scale become ``factor`` times as large."""
    step = student.forms[name]
    assert isinstance(step, StepSize)
    step.growth += 1.0
    pace = np.log(step.value() / step.stored)  # whatever the parameter is scaled by
    step.growth[:] = np.log(factor) / pace


@pytest.mark.parametrize("bias", BIASES)
def test_a_bias_of_integers_follows_the_scale_of_its_input(bias: str) -> None:
    model = net(bias)
    student = student_of(model)
    assert set(student.forms) == {"w", "b", "s", "t"} and not student.frozen
    untouched = student.stored()
    assert all(
        np.array_equal(content(untouched, name), content(model, name)) for name in model.graph.initializers
    )
    form = student.forms["b"]
    assert isinstance(form, Coded) and form.kind == "codes of 32 bits"
    exact = (content(model, "bq") * (content(model, "ws").astype(float) * 0.02)).astype("f")
    np.testing.assert_allclose(form.value(), exact, rtol=1e-6)
    form.latent += 0.321
    grow(student, "s", 1.7)
    again = student.stored()
    scale = content(again, "s")
    np.testing.assert_allclose(scale, 0.034, rtol=1e-5)
    unit = content(again, "bs") if bias == "stored" else content(again, "ws") * scale
    assert np.array_equal(unit, content(again, "ws") * scale)  # bit by bit, or no integer kernel is made
    assert (
        content(again, "bq").dtype == np.int32
        and content(again, "bs" if bias == "stored" else "ws").dtype == "f"
    )
    assert np.abs(content(again, "bq") * unit.astype(float) - (exact + 0.321)).max() <= unit.max() / 2 + 1e-6
    x = _RNG.normal(size=(50, 6)).astype("f")
    trained = edit.copy_of(student.graph)
    for name, each in student.forms.items():
        edit.replace_initializer(trained.graph.initializers[name], each.value())
    [seen], [stored] = run(trained, {"x": x}), run(again, {"x": x})
    assert (
        np.mean(seen == stored) > 0.98 and np.abs(seen - stored).max() < 0.08
    )  # one step where a tie breaks


def test_the_gradient_of_a_step_is_scaled_as_its_authors_scale_it() -> None:
    """By the root of the elements of a sample times the largest code; the parameter is a logarithm."""
    student = student_of(net("computed"))
    step = student.forms["s"]
    assert isinstance(step, StepSize)
    step.growth += 1e-4
    pace = float(np.log(step.value() / step.stored)) / 1e-4
    step.growth[:] = 0
    [pulled] = step.pull(np.array(5.0, "f")).values()
    assert pulled == pytest.approx(5.0 * 0.02 * pace / np.sqrt(6 * 255), rel=1e-2)


def test_the_sum_behind_a_product_counts_as_its_bias() -> None:
    text = f"""{_HEAD} {{ {_INPUT} b = DequantizeLinear<axis = 0>(bq, bs)  m = MatMul(d, w)  o = Add(m, b)
        p = QuantizeLinear(o, t, u)  y = DequantizeLinear(p, t, u) }}"""
    arrays = parts()
    student = student_of(with_arrays(text, {**arrays, "bs": (arrays["ws"] * arrays["s"]).astype("f")}))
    grow(student, "s", 0.5)
    assert np.array_equal(content(student.stored(), "bs"), arrays["ws"] * content(student.stored(), "s"))


def test_scales_along_an_axis_are_steps_and_no_weights() -> None:
    text = """g (float[n,3,5] x) => (float[n,3,4] y) { q = QuantizeLinear<axis = 1>(x, s, z)
        d = DequantizeLinear<axis = 1>(q, s, z)  y = MatMul(d, w) }"""
    arrays = {"s": np.array([0.1, 0.3, 0.7], "f"), "z": np.zeros(3, np.int8), "w": np.ones((5, 4), "f")}
    student = student_of(with_arrays(text, arrays))
    step = student.forms["s"]
    assert isinstance(step, StepSize) and step.value().shape == (3,)


def test_scales_that_others_rely_on_stay() -> None:
    apart = net("stored", bs=np.full(4, 0.5, "f"))
    assert "depends on it in a way" in student_of(apart).frozen["s"]
    assert (
        "powers of two" in student_of(net("computed", s=np.array(0.125, "f"), t=np.array(2, "f"))).frozen["s"]
    )
    text = f"""g (float[n,6] x) => (float[n,4] y, float k) {{ {_INPUT} {BIASES["computed"]} {_GEMM}
        k = Identity(s) }}"""
    shown = with_arrays(text, parts())
    shown.graph.outputs[1:] = [shown.graph.initializers["s"]]
    assert "given from outside" in student_of(shown).frozen["s"]
    whole = with_arrays(
        f"g (float[n,6] x) => (uint8[n,4] p) {{ {_INPUT} {BIASES['computed']} {_GEMM} }}", parts()
    )
    found = student_of(whole)
    assert "takes or gives" in found.frozen["t"] and "s" in found.forms
    text = f"{_HEAD} {{ {_INPUT} {BIASES['computed']} {_GEMM[: _GEMM.index('p =')]} y = Mul(o, s) }}"
    assert "something else" in student_of(with_arrays(text, parts())).frozen["s"]
    negative = student_of(net("computed", s=np.array(-0.02, "f")))
    assert "not positive" in negative.frozen["s"]


def test_a_bias_that_cannot_follow_keeps_the_scale() -> None:
    """What decodes it is no product."""
    bias = "r = Exp(s)  bs = Mul(ws, r)  b = DequantizeLinear<axis = 0>(bq, bs)"
    text = f"{_HEAD} {{ {_INPUT} {bias} {_GEMM} }}"
    student = student_of(with_arrays(text, parts()))
    assert "way that is not known" in student.frozen["b"] and "'b'" in student.frozen["s"]
    assert "s" not in student.forms and "t" in student.forms


def test_weights_of_integers_are_not_folded_to_floats() -> None:
    """However small they are: the runtime would have to round them anew, with one scale for all channels."""
    model = net("stored", wq=np.ones((6, 4), np.int8))
    before = [node.op_type for node in model.graph]
    FoldConstants()(model)
    assert [node.op_type for node in model.graph] == before
