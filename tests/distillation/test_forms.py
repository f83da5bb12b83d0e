"""What weights are told to be, and that they stay what they are."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.distillation.forms import Coded, Plain
from onnxslim.distillation.students import Student, find_student
from onnxslim.distillation.sums import Summed
from onnxslim.model import edit
from onnxslim.passes import BinarizeWeights, CodebookWeights, PackWeights, QuantizeVectors
from onnxslim.runtime.client import open_worker
from tests.distillation.nets import with_arrays
from tests.models import run

Array = np.ndarray[Any, Any]

ROWS, COLUMNS = 128, 40  # large enough for few bits to make a smaller file


def student_of(net: ir.Model) -> Student:
    with open_worker() as worker:
        return find_student(worker, net)


def product() -> ir.Model:
    weight = np.random.default_rng(0).normal(0, 0.3, (ROWS, COLUMNS)).astype("f")
    return with_arrays(
        f"g (float[n,{ROWS}] x) => (float[n,{COLUMNS}] y) {{ y = MatMul(x, w) }}", {"w": weight}
    )


def packed(bits: Literal[2, 4, 8], block: int = 0, *, symmetric: bool = True) -> ir.Model:
    net = product()
    PackWeights(bits=bits, block=block, symmetric=symmetric, min_sqnr_db=0.0, narrow_sqnr_db=0.0)(net)
    assert any(node.op_type == "Mul" for node in net.graph)
    return net


def dequantized(dtype: Any, *, block: int = 0, axis: int = 1, zero: bool = True, opset: int = 21) -> ir.Model:
    """A weight behind DequantizeLinear."""
    rng = np.random.default_rng(1)
    info = ml_dtypes.iinfo(dtype)
    codes = rng.integers(info.min, int(info.max) + 1, (ROWS, COLUMNS)).astype(dtype)
    shape = (ROWS // block, COLUMNS) if block else (COLUMNS,)
    parts = {"q": codes, "s": rng.uniform(0.01, 0.1, shape).astype("f")}
    if zero:
        parts["z"] = rng.integers(info.min, int(info.max) + 1, shape).astype(dtype)
    attributes = f"axis = {0 if block else axis}" + (f", block_size = {block}" if block else "")
    inputs = "q, s, z" if zero else "q, s"
    text = f"""g (float[n,{ROWS}] x) => (float[n,{COLUMNS}] y)
        {{ w = DequantizeLinear<{attributes}>({inputs})  y = MatMul(x, w) }}"""
    return with_arrays(text, parts, opset)


def binary(container: Literal["packed", "qdq"], bases: int = 1, block: int = 0) -> ir.Model:
    net = product()
    assert BinarizeWeights(bases=bases, block=block, container=container, min_sqnr_db=0.0)(net).modified
    return net


def integer_signs(bases: int) -> ir.Model:
    """Signs that are summed up to int8 in front of a DequantizeLinear."""
    net = dequantized(np.int8, zero=False)
    assert BinarizeWeights(bases=bases, min_sqnr_db=0.0)(net).modified
    return net


def decoded_by_its_kernel(bits: int, block: int = 32) -> ir.Model:
    """A weight that the product's own kernel decodes, as other tools leave it."""
    rng, blocks = np.random.default_rng(2), ROWS // block
    parts = {
        "q": rng.integers(0, 256, (COLUMNS, blocks, block * bits // 8)).astype(np.uint8),
        "s": rng.uniform(0.01, 0.1, COLUMNS * blocks).astype("f"),
    }
    attributes = f"K = {ROWS}, N = {COLUMNS}, bits = {bits}, block_size = {block}"
    text = f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[n,{ROWS}] x) => (float[n,{COLUMNS}] y)
        {{ y = com.microsoft.MatMulNBits<{attributes}>(x, q, s) }}"""
    return with_arrays(text, parts)


NETS = {
    "kernel of 4 bits": lambda: decoded_by_its_kernel(4),
    "kernel of 8 bits": lambda: decoded_by_its_kernel(8),
    "signs": lambda: binary("packed"),
    "signs of 8 bits": lambda: binary("qdq"),
    "int2": lambda: packed(2),
    "int4": lambda: packed(4),
    "int4 in blocks": lambda: packed(4, 16),
    "int4 with zero points": lambda: packed(4, 16, symmetric=False),
    "int8 in blocks": lambda: packed(8, 16),
    "int8": lambda: packed(8),
    "QDQ int8": lambda: dequantized(np.int8),
    "QDQ uint8": lambda: dequantized(np.uint8),
    "QDQ int4": lambda: dequantized(ml_dtypes.int4),
    "QDQ uint4 in blocks": lambda: dequantized(ml_dtypes.uint4, block=16),
    "QDQ int4 without zero point": lambda: dequantized(ml_dtypes.int4, zero=False),
}


@pytest.mark.parametrize("name", NETS)
def test_a_weight_is_told_and_stored_again_as_it_was(name: str) -> None:
    net = NETS[name]()
    student = student_of(net)
    [form] = student.forms.values()
    assert isinstance(form, Coded) and not student.frozen
    again = student.stored()
    for key, value in net.graph.initializers.items():
        one, other = edit.constant_value(value), edit.constant_value(again.graph.initializers[key])
        assert one is not None and other is not None
        assert one.dtype == other.dtype and np.array_equal(one, other), key
    x = np.eye(ROWS, dtype="f")
    [expected] = run(net, {"x": x})
    [found] = run(student.graph, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_whatever_training_does_the_form_stays(name: str) -> None:
    """After wild steps the stored model computes exactly what the step saw, in the same types."""
    net = NETS[name]()
    student = student_of(net)
    [form] = student.forms.values()
    assert isinstance(form, Coded)
    rng = np.random.default_rng(5)
    for _ in range(3):
        for part, gradient in form.pull(rng.normal(size=form.shape).astype("f")).items():
            form.parameters[part][...] -= (0.3 if part == "weight" else 0.05) * np.sign(gradient)
    again = student.stored()
    [found] = run(again, {"x": np.eye(ROWS, dtype="f")})
    np.testing.assert_allclose(found.reshape(form.shape), form.value(), rtol=1e-4, atol=1e-6)
    assert np.abs(found - run(net, {"x": np.eye(ROWS, dtype="f")})[0]).max() > 0.01
    [codes] = [value for key, value in again.graph.initializers.items() if key == form.codes.name]
    assert codes.dtype == net.graph.initializers[form.codes.name].dtype
    levels = form.codes.read()
    assert levels.min() >= form.codes.low and levels.max() <= form.codes.high
    assert len(np.unique(form.value().reshape(ROWS, COLUMNS)[:16, 0])) <= form.codes.levels
    if name.startswith("signs"):
        assert form.kind == "signs"
        for column in form.value().reshape(ROWS, COLUMNS).T:
            low, high = np.unique(column)
            assert low == -high


SUMS = {
    "two signs": lambda: binary("packed", 2),
    "four signs": lambda: binary("packed", 4),
    "three signs in blocks": lambda: binary("packed", 3, 16),
    "two signs of 8 bits": lambda: binary("qdq", 2),
    "three signs of 8 bits": lambda: binary("qdq", 3),
    "two signs that make integers": lambda: integer_signs(2),
    "three signs that make integers": lambda: integer_signs(3),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_of_signs_is_told_and_stays_one(name: str) -> None:
    """As it was stored; and after wild steps the stored model computes exactly what the step saw."""
    net = SUMS[name]()
    student = student_of(net)
    [form] = student.forms.values()
    assert isinstance(form, Summed) and not student.frozen
    assert form.kind == f"{len(form.bases)} signs"
    again = student.stored()
    for key, value in net.graph.initializers.items():
        one, other = edit.constant_value(value), edit.constant_value(again.graph.initializers[key])
        assert one is not None and other is not None
        assert one.dtype == other.dtype and np.array_equal(one, other), key
    x, rng = np.eye(ROWS, dtype="f"), np.random.default_rng(5)
    [before] = run(net, {"x": x})
    np.testing.assert_allclose(form.value().reshape(before.shape), before, rtol=1e-5, atol=1e-6)
    for _ in range(3):
        for part, gradient in form.pull(rng.normal(size=form.shape).astype("f")).items():
            form.parameters[part][...] -= (0.3 if part == "weight" else 0.05) * np.sign(gradient)
    [found] = run(student.stored(), {"x": x})
    np.testing.assert_allclose(found, form.value().reshape(found.shape), rtol=1e-4, atol=1e-6)
    assert np.abs(found - before).max() > 0.01
    assert len(np.unique(found[:16, 0])) <= 2 ** len(form.bases)


@pytest.mark.parametrize("name", ["two signs", "three signs in blocks", "three signs of 8 bits"])
def test_gradients_of_the_scales_of_a_sum_are_those_of_differences(name: str) -> None:
    """With the signs as they are; every sum that latent floats lie on is the nearest one."""
    [form] = student_of(SUMS[name]()).forms.values()
    assert isinstance(form, Summed)
    direction = np.random.default_rng(0).normal(size=form.shape).astype("f")
    found, chosen = form.pull(direction), form._chosen()
    for part, growth in form.parameters.items():
        for number in range(0, len(growth), 7) if part != "weight" else ():
            ends = []
            for step in (0.05, -0.05):
                growth[number] = step
                ends.append(float(np.vdot(form.total(chosen).astype(np.float64), direction.reshape(-1))))
            growth[number] = 0
            assert found[part][number] == pytest.approx((ends[0] - ends[1]) / 0.1, rel=2e-2, abs=1e-3)


def test_a_sum_of_signs_takes_the_nearest_of_all_sums() -> None:
    [form] = student_of(binary("packed", 3)).forms.values()
    assert isinstance(form, Summed)
    low, high = (np.stack(ends) for ends in zip(*(base.ends() for base in form.bases), strict=True))
    choices = np.array(list(itertools.product((0, 1), repeat=3))).T[..., None]
    sums = np.where(choices, high[:, None], low[:, None]).sum(0)
    form.latent[:] = np.random.default_rng(3).normal(0, 0.5, form.latent.size)
    off = np.abs(sums - form.latent).min(0)
    np.testing.assert_allclose(np.abs(form.value().reshape(-1) - form.latent), off, atol=1e-6)


@pytest.mark.parametrize(("scales", "known"), [((60, 30), True), ((100, 90), False)])
def test_a_sum_that_may_overflow_is_left_alone(scales: tuple[int, int], known: bool) -> None:
    """As it is stored all signs are opposite, so that int8 holds every sum; with others it would not."""
    text = """g (float[n,8] x) => (float[n,6] y)
        { k = Mod(q, two)  c = Cast<to = 1>(k)  h = Sub(c, half)  f = Cast<to = 1>(s)  m = Mul(h, f)
          a = Gather<axis = 0>(m, zero)  b = Gather<axis = 0>(m, one)  t = Add(a, b)  i = Cast<to = 3>(t)
          w = DequantizeLinear<axis = 1>(i, d)  y = MatMul(x, w) }"""
    one = np.random.default_rng(0).integers(0, 2, (8, 6)).astype(np.uint8)
    parts = {
        "q": np.stack([one, 1 - one]),
        "two": np.uint8(2),
        "half": np.float32(0.5),
        "s": (2 * np.array(scales)).astype(np.uint8).reshape(2, 1, 1),
        "zero": np.int64(0),
        "one": np.int64(1),
        "d": np.linspace(0.01, 0.02, 6, dtype="f"),
    }
    student = student_of(with_arrays(text, parts))
    assert isinstance(student.forms.get("w"), Summed) == known
    assert ("w" in student.frozen) != known and "d" not in student.forms


def test_a_sum_of_signs_remembers_what_it_was_made_of() -> None:
    original = edit.constant_value(product().graph.initializers["w"])
    assert original is not None
    with open_worker() as worker:
        [plain] = find_student(worker, binary("packed", 2)).forms.values()
        [hinted] = find_student(worker, binary("packed", 2), product()).forms.values()
    assert isinstance(plain, Summed) and isinstance(hinted, Summed)
    assert np.array_equal(plain.value(), hinted.value())
    errors = [np.abs(form.latent - original.reshape(-1)).mean() for form in (plain, hinted)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("form", ["tensor", "channel", "block", "vectors"])
def test_of_a_codebook_the_values_are_trained(form: str) -> None:
    """Its codes stay what they are; where there are scales, they are trained as well."""
    net = product()
    if form == "vectors":
        assert QuantizeVectors(entries=16, min_sqnr_db=0.0)(net).modified
    else:
        step = CodebookWeights(entries=4, per=form, min_sqnr_db=0.0)  # type: ignore[arg-type]
        assert step(net).modified
    student = student_of(net)
    assert student.forms and not student.frozen
    assert all(isinstance(each, Plain) for each in student.forms.values())
    names = {each.name for each in student.forms.values()}
    assert len(names) == (2 if form in ("block", "vectors") else 1)
    for each in student.forms.values():
        assert isinstance(each, Plain)
        each.latent *= 1.5
    again = student.stored()
    for key, value in net.graph.initializers.items():
        one, other = edit.constant_value(value), edit.constant_value(again.graph.initializers[key])
        assert one is not None and other is not None and one.dtype == other.dtype
        assert np.array_equal(one, other) == (key not in names)
    x = np.eye(ROWS, dtype="f")
    grown = run(again, {"x": x})[0] / run(net, {"x": x})[0]
    np.testing.assert_allclose(grown, 1.5 ** len(names), rtol=5e-3)


def test_gradients_of_scales_are_those_of_differences() -> None:
    """With the codes as they are, growing the logarithm of a scale grows its weights."""
    [form] = student_of(packed(4, 16)).forms.values()
    assert isinstance(form, Coded)
    rng = np.random.default_rng(0)
    direction = rng.normal(size=form.shape).astype("f")
    form.latent[:] = 1e3 * np.sign(form.latent + 1e-9)  # clipped, so that the codes do not move
    found = form.pull(direction)
    assert not found["weight"].any()
    for number in range(0, len(form.growth), 7):
        ends = []
        for step in (0.05, -0.05):
            form.growth[number] = step
            ends.append(float(np.vdot(form.value().astype(np.float64), direction)))
        form.growth[number] = 0
        assert found["scale"][number] == pytest.approx((ends[0] - ends[1]) / 0.1, rel=2e-2, abs=1e-3)


def test_a_table_of_values_is_floats_behind_codes() -> None:
    text = "g (float[n,4] x) => (float[n,3] y) { w = Gather(t, i)  y = MatMul(x, w) }"
    net = with_arrays(text, {"t": np.array([-1, 0.5, 2], "f"), "i": np.arange(12).reshape(4, 3) % 3})
    student = student_of(net)
    assert list(student.forms) == ["t"] and isinstance(student.forms["t"], Plain)


def test_halves_stay_halves() -> None:
    text = "g (float[n,6] x) => (float[n,5] y) { w = Cast<to = 1>(h)  y = MatMul(x, w) }"
    half = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float16)
    student = student_of(with_arrays(text, {"h": half}))
    form = student.forms["w"]
    assert isinstance(form, Plain) and form.dtype == np.float16
    form.latent += 0.123456
    stored = edit.constant_value(student.stored().graph.initializers["h"])
    assert stored is not None and stored.dtype == np.float16
    assert np.array_equal(stored.astype("f"), form.value())


def test_a_weight_in_two_places_is_one() -> None:
    text = """g (float[n,4] x) => (float[n,4] y)
        { a = MatMul(x, w)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(a, t) }"""
    student = student_of(with_arrays(text, {"w": np.eye(4, dtype="f")}))
    assert list(student.forms) == ["w"]


def test_what_is_not_known_is_left_alone_with_a_reason() -> None:
    text = """g (float[n,16] x) => (float[n,4] y)
        { c = Cast<to = 1>(q)  e = Exp(c)  y = MatMul(x, e) }"""
    student = student_of(with_arrays(text, {"q": np.arange(64, dtype=np.uint8).reshape(16, 4) % 9}))
    assert not student.forms and "not known" in student.frozen["e"]


def test_single_numbers_and_what_is_not_finite_are_no_weights() -> None:
    text = """g (float[n,4] x) => (float[n,4] y)
        { a = Clip(x, low, high)  b = Mul(a, factor)  y = Add(b, mask) }"""
    parts = {"low": np.float32(0), "high": np.float32(6), "factor": np.array([2], "f")}
    student = student_of(with_arrays(text, {**parts, "mask": np.array([0, 0, -np.inf, 0], "f")}))
    assert not student.forms and student.frozen == {"mask": "it is not finite"}


@pytest.mark.parametrize("name", ["int2", "int4 in blocks", "signs"])
def test_codes_remember_what_they_were_rounded_from(name: str) -> None:
    """The weight stays as it is, but its latent floats are nearer to the original's."""
    net, original = NETS[name](), edit.constant_value(product().graph.initializers["w"])
    assert original is not None
    with open_worker() as worker:
        [plain] = find_student(worker, net).forms.values()
        [hinted] = find_student(worker, net, product()).forms.values()
    assert isinstance(plain, Coded) and isinstance(hinted, Coded)
    assert np.array_equal(plain.value(), hinted.value())
    errors = [np.abs(form.latent - original.reshape(-1)).mean() for form in (plain, hinted)]
    assert errors[1] < 0.5 * errors[0]
