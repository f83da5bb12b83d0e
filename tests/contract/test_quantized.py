"""Quantized models mean the same to every runtime that reads the standard.

The reference is onnxruntime with its optimizations off.  What is compared: each output, element by element,
in steps of the quantizer that it comes from.  Runtimes add in other orders, and a value that lies between two
integers may go to either; that it may do in each layer, so fused kernels are given two steps.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest

from onnxslim._ir import ir
from onnxslim.runtime.kernels import executed
from tests.contract.quantized import FORMS, MODELS, Feed, feeds, made, original, steps_of
from tests.models import run

CASES = [(name, form) for name in MODELS for form in FORMS]
every_case = pytest.mark.parametrize(("name", "form"), CASES, ids=[" - ".join(case) for case in CASES])
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def fed(model: onnx.ModelProto, name: str, count: int = 2) -> list[Feed]:
    """Inputs that were not calibrated on; for a model of integers, integers of the whole range."""
    given = feeds(name, count, seed=1)
    [info] = model.graph.input
    if info.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        rng = np.random.default_rng(2)
        return [{info.name: rng.integers(0, 256, feed[info.name].shape, np.uint8)} for feed in given]
    return given


def off_by(model: onnx.ModelProto, wanted: list[np.ndarray], found: list[np.ndarray]) -> float:
    """The largest difference over all outputs, in steps."""
    pairs = zip(steps_of(model).values(), wanted, found, strict=True)
    assert all(
        one.shape == two.shape and one.dtype == two.dtype for one, two in zip(wanted, found, strict=True)
    )
    return max(float(np.abs(one.astype(np.float64) - two).max()) / step for step, one, two in pairs)


@every_case
def test_the_onnx_checker_accepts_it(name: str, form: str) -> None:
    onnx.checker.check_model(made(name, form), full_check=True)


@every_case
def test_onnxruntime_runs_it_at_every_level(name: str, form: str) -> None:
    model = made(name, form)
    for level in LEVELS:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for feed in fed(model, name):
            assert off_by(model, run(model, feed), session.run(None, feed)) < 2.01, level


@every_case
def test_the_reference_evaluator_agrees_within_a_step(name: str, form: str) -> None:
    model = made(name, form)
    evaluator = onnx.reference.ReferenceEvaluator(model)
    for feed in fed(model, name, 1):
        assert off_by(model, run(model, feed), list(evaluator.run(None, feed))) < 1.01


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
@every_case
def test_openvino_agrees_within_two_steps(name: str, form: str) -> None:
    import openvino

    model = made(name, form)
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for feed in fed(model, name, 1):
        found = compiled(feed)
        outputs = [np.asarray(found[output.name]) for output in model.graph.output]
        assert off_by(model, run(model, feed), outputs) < 2.01


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gathered rows"])
def test_the_models_are_really_quantized(name: str) -> None:
    """Else the tests above would compare floats."""
    integers = [kernel.op_type for kernel in executed(ir.from_proto(made(name, "static"))).kernels]
    assert sum(kernel.startswith(("QLinear", "QGemm", "MatMulInteger")) for kernel in integers) >= 2, integers
    stored = {tensor.name for tensor in made(name, "packed").graph.initializer if tensor.data_type == 3}
    assert any(weight.endswith("_q") for weight in stored)


@every_case
def test_it_is_still_the_model_that_it_was_made_of(name: str, form: str) -> None:
    if form == "integer ports":
        pytest.skip("its bits are those of the form before, see test_integer_io")
    for feed in feeds(name, 2, seed=1):
        for one, two in zip(run(original(name), feed), run(made(name, form), feed), strict=True):
            noise = float(np.sum((one.astype(np.float64) - two) ** 2))
            assert 10 * np.log10(float(np.sum(one.astype(np.float64) ** 2)) / noise) > 25
