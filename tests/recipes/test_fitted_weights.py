"""Codes by GPTQ over patches: nearer to the original's outputs, in floats and in front of integer kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.model import edit
from onnxslim.passes._rounding import Known
from onnxslim.passes.base import Pass
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.pack_integers import PackIntegers
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.quantize_vectors import QuantizeVectors
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.candidates import static_candidate
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.few_bits import Moments, in_few_bits, moments_of, packed_in_few_bits
from onnxslim.recipes.fitted_weights import fitted_books, fitted_codes, fitted_integers
from onnxslim.recipes.least_noise import least_noise
from onnxslim.reconstruct.blocks import Coded
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import run
from tests.passes.test_quantize_static import built

NET = """g (float[1,8,16,16] x) => (float[1,10] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1, b1)
    r = Relu(a)
    c = Conv <group=2, pads=[2,0,1,1], strides=[2,1], dilations=[1,2]> (r, w2)
    s = Relu(c)
    t = Conv (s, w3)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    y = Gemm <transB=1> (f, w4, b4) }"""
WEIGHTS = {
    "w1": (32, 8, 3, 3),
    "b1": (32,),
    "w2": (32, 16, 3, 3),
    "w3": (64, 32, 1, 1),
    "w4": (10, 64),
    "b4": (10,),
}


def inputs(count: int, seed: int) -> list[dict[str, Any]]:
    """Pictures, in which neighbours are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 8, 6, 6)).astype(np.float32)
    fine = np.kron(coarse, np.ones((1, 1, 3, 3), np.float32))[:, :, :16, :16]
    return [{"x": image[None]} for image in fine + 0.1 * rng.normal(size=fine.shape).astype(np.float32)]


def quality(model: ir.Model, *steps: Pass) -> float:
    """Signal to noise on inputs that nothing was fitted to."""
    result = run_steps(model, steps).model
    pairs = [(run(model, feed)[0], run(result, feed)[0]) for feed in inputs(16, 99)]
    one, other = (np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True))
    return sqnr_db(one, other)


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return built(NET, opset=13, **WEIGHTS)


def test_filters_are_rounded_by_the_patches_that_they_meet(model: ir.Model) -> None:
    [known] = fitted_codes(model, inputs(48, 0), (4,), 32)
    assert set(known) == {"w1", "w2"}, "products along one axis need no patches"
    assert all(coded.shape == WEIGHTS[name] for name, found in known.items() for coded in [found.codes])
    pack = PackWeights(bits=4, block=32, only=("w1", "w2"), narrow_sqnr_db=0)
    assert quality(model, replace(pack, known=known)) > quality(model, pack) + 4
    stored = replace(pack, known=known).stored(model)
    assert stored["w1"] is known["w1"].codes and stored["w2"] is known["w2"].codes


def test_the_ratio_is_that_of_the_output(model: ir.Model) -> None:
    """Of the first product alone, on all that it gives for other inputs."""
    found = fitted_codes(model, inputs(48, 0), (2, 4), 32)[1]["w1"]
    coded, ratio = found.codes, found.sqnr_db
    weight = model.graph.initializers["w1"].const_value
    assert weight is not None
    signal = noise = 0.0
    for feed in inputs(8, 5):
        image = np.pad(feed["x"][0], ((0, 0), (1, 1), (1, 1)))
        patches = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (1, 2)).astype(np.float64)
        for content, add in ((weight.numpy(), True), (coded.decode() - weight.numpy(), False)):
            energy = float(np.square(np.einsum("cyxij,ocij->oyx", patches, content)).sum())
            signal, noise = (signal + energy, noise) if add else (signal, noise + energy)
    assert ratio == pytest.approx(10 * np.log10(signal / noise), abs=1.0)


def test_integers_are_fitted_to_the_floats_that_they_stand_for(model: ir.Model) -> None:
    quantize = QuantizeStatic(calibrate(model, inputs(48, 0)), placement="all")
    quantized = run_steps(model, (quantize,)).model
    [known] = fitted_integers(model, quantized, inputs(48, 0), (4,), 32)
    assert set(known) == {f"{name}_quantized" for name in ("w1", "w3", "w4")}, "groups stay in float"
    for coded in (found.codes for found in known.values()):
        assert coded.is_integer and coded.decode().dtype == np.int8
        assert coded.codes.max() < 16 and coded.scale.min() >= 1
    pack = PackIntegers(narrow_sqnr_db=0)
    fitted = replace(pack, known=known)
    assert quality(model, quantize, fitted) > quality(model, quantize, pack) + 3
    before, after = (
        executed(run_steps(model, steps).model).histogram for steps in ((quantize,), (quantize, fitted))
    )
    assert before == after and after["QLinearConv"] >= 2, "the kernels stay"


def test_integers_of_eight_bits_are_better_than_the_nearest(model: ir.Model) -> None:
    """At the same scales; and those of fewer bits are fitted to the floats all the same."""
    wide = QuantizeStatic(
        calibrate(model, inputs(48, 0)), placement="all", target="qnn", activations="uint16"
    )  # so that the noise is that of the weights
    quantized = run_steps(model, (RaiseOpset(opset=21), wide)).model
    [known] = fitted_integers(model, quantized, inputs(48, 0), (8,), 0)
    assert set(known) == {f"{name}_quantized" for name in ("w1", "w2", "w3")}
    fitted = replace(wide, known=known)
    again = run_steps(model, (RaiseOpset(opset=21), fitted)).model
    for name, value in quantized.graph.initializers.items():
        one, other = edit.constant_value(value), edit.constant_value(again.graph.initializers[name])
        assert one is not None and other is not None and one.dtype == other.dtype
        assert np.array_equal(one, other) == (name not in known)
        assert np.abs(one.astype(np.float64) - other).max() < 64
    assert quality(model, RaiseOpset(opset=21), fitted) > quality(model, RaiseOpset(opset=21), wide) + 3
    [few] = fitted_integers(model, again, inputs(48, 0), (4,), 32)
    assert set(few) == set(known)
    for name, found in few.items():
        assert np.array_equal(found.weight, edit.constant_value(again.graph.initializers[name]))


def test_they_are_chosen_by_the_noise_on_held_out_inputs(model: ir.Model) -> None:
    first = QuantizeStatic(calibrate(model, inputs(48, 0)), placement="all")
    best = least_noise(model, first, inputs(8, 1), inputs(48, 0))
    assert best.known and "weights by GPTQ" in static_candidate(best).name
    assert quality(model, best) > quality(model, replace(best, known={}))


def test_integers_for_another_weight_are_not_taken(model: ir.Model) -> None:
    quantize = QuantizeStatic(calibrate(model, inputs(8, 0)), placement="all")
    quantized = run_steps(model, (quantize,)).model
    [known] = fitted_integers(model, quantized, inputs(8, 0), (8,), 0)
    other = model.clone()
    edit.replace_initializer(
        other.graph.initializers["w1"], -edit.constant_value(model.graph.initializers["w1"])
    )
    plain, fitted = (run_steps(other, (form,)).model for form in (quantize, replace(quantize, known=known)))
    for name, same in (("w1_quantized", True), ("w3_quantized", False)):
        one, two = (edit.constant_value(each.graph.initializers[name]) for each in (plain, fitted))
        assert np.array_equal(one, two) == same


def test_the_longest_products_are_left_out_where_all_are_too_much(model: ir.Model) -> None:
    """Lengths are 72, 32 and 64."""
    quantized = run_steps(model, (QuantizeStatic(calibrate(model, inputs(8, 0)), placement="all"),)).model
    for work, names in ((0.0, set()), (4e4, {"w3"}), (3e5, {"w3", "w4"}), (7e5, {"w1", "w3", "w4"})):
        [known] = fitted_integers(model, quantized, inputs(8, 0), (8,), 0, work)
        assert set(known) == {f"{name}_quantized" for name in names}


def test_codes_of_another_weight_are_not_taken(model: ir.Model) -> None:
    """A pass before may have scaled its channels, or asked for other bits."""
    quantized = run_steps(model, (QuantizeStatic(calibrate(model, inputs(8, 0)), placement="all"),)).model
    for source, name, form in (
        (quantized, "w1_quantized", PackIntegers(narrow_sqnr_db=0)),
        (model, "w1", PackWeights(bits=4, block=32, narrow_sqnr_db=0, only=("w1",))),
    ):
        plain = form.stored(source)[name]
        weight = edit.constant_value(source.graph.initializers[name])
        assert isinstance(plain, Coded) and weight is not None
        other = replace(plain, codes=np.ascontiguousarray(plain.codes[::-1]))
        scaled = weight.copy()
        scaled[0] = scaled[0] / 2
        for codes, fitted_to in ((replace(other, bits=2), weight), (other, scaled)):
            found = replace(form, known={name: Known(codes, 99.0, fitted_to)}).stored(source)[name]
            np.testing.assert_array_equal(found.decode(), plain.decode())
        found = replace(form, known={name: Known(other, 99.0, weight)}).stored(source)[name]
        assert found is other
        noisy = replace(form, narrow_sqnr_db=16.0, known={name: Known(plain, 15.0, weight)}).stored(source)
        assert name not in noisy or not isinstance(noisy[name], Coded), "not where four bits were found noisy"


@pytest.mark.parametrize("form", [CodebookWeights(8), QuantizeVectors(64, 4)])
def test_tables_are_fitted_to_patches_too(form: CodebookWeights | QuantizeVectors, model: ir.Model) -> None:
    plain = replace(form, only=("w1",), min_sqnr_db=0.0)
    [fitted] = fitted_books(model, inputs(48, 0), [plain])
    assert set(fitted.known) == {"w1"}, "of what the pass may take"
    [every] = fitted_books(model, inputs(48, 0), [replace(plain, only=())])
    assert set(every.known) == {"w1"}, "w3 needs no patches, the groups of w2 would need tables of their own"
    assert quality(model, fitted) > quality(model, plain) + 2
    assert fitted.stored(model)["w1"] is fitted.known["w1"]


@pytest.mark.parametrize(("bits", "widths"), [(4, {4}), (2, {2, 4})])
def test_few_bits_are_two_only_where_they_were_asked_for(
    bits: int, widths: set[int], model: ir.Model
) -> None:
    data, held_out = inputs(48, 0), inputs(8, 1)
    static = static_candidate(QuantizeStatic(calibrate(model, data), placement="all"))
    for candidate in (
        *packed_in_few_bits(model, bits, Moments(), held_out, data),
        *in_few_bits(model, static, bits, held_out, data),
    ):
        assert f"{bits} bits" in candidate.name and candidate.storage is not None
        steps = candidate.storage.steps(candidate.storage.levels[0])
        few = [step for step in steps if isinstance(step, PackIntegers | PackWeights) and step.bits < 8]
        assert {step.bits for step in few} <= widths and bits in {step.bits for step in few}
        cleaner = candidate.storage.steps(40.0)
        assert quality(model, *candidate.head, *cleaner) > quality(model, *candidate.head, *steps)


def test_without_held_out_inputs_or_numbers_nothing_is_fitted(model: ir.Model) -> None:
    assert fitted_codes(model, inputs(1, 0), (4,), 32) == [{}]
    broken = edit.copy_of(model)
    content = np.ones(WEIGHTS["w1"], np.float32)
    content[0, 0, 0, 0] = np.nan
    edit.replace_initializer(broken.graph.initializers["w1"], content)
    assert "w1" not in fitted_codes(broken, inputs(48, 0), (4,), 32)[0]


def test_a_model_with_branches_stays_as_it_is() -> None:
    """Tensors inside of bodies are observed on a copy."""
    model = built(
        """g (float[1,64] x, bool c) => (float[1,64] y) {
            a = MatMul(x, w)
            y = If (c) <then_branch = t () => (float[1,64] p) { r = Relu(a) p = MatMul(r, v) },
                        else_branch = e () => (float[1,64] q) { q = Neg(a) }> }""",
        w=(64, 64),
        v=(64, 64),
    )
    before = ir.to_proto(model).SerializeToString()
    rng = np.random.default_rng(0)
    rows = [{"x": rng.normal(size=(1, 64)).astype("f"), "c": np.array(i % 2 == 0)} for i in range(16)]
    assert moments_of(model, rows[:8], rows[8:]).inputs is not None
    assert ir.to_proto(model).SerializeToString() == before
