"""What the self-test finds, against onnxruntime asked in another way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxslim.runtime import selftest
from onnxslim.runtime.environment import environment
from onnxslim.runtime.selftest import (
    ProviderTrial,
    exact_products,
    integer_speed,
    try_kernels,
    try_provider,
)

PATTERNS = {pattern: graph for pattern, graph, _ in selftest._PATTERNS}


def operators_of_a_profiled_run(model: onnx.ModelProto, folder: Path) -> set[str]:
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {i.name: np.ones(i.shape, np.float32) for i in session.get_inputs()})
    events = json.loads(Path(session.end_profiling()).read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


def test_the_kernels_found_are_those_of_a_profiled_run(tmp_path: Path) -> None:
    trials = try_kernels()
    assert [trial.pattern for trial in trials] == list(PATTERNS)
    for trial in trials:
        ran = operators_of_a_profiled_run(
            selftest._model(PATTERNS[trial.pattern], **selftest._stored()), tmp_path
        )
        if trial.kernel is None:
            assert trial.remark
        else:
            assert trial.kernel in ran and not trial.remark


def test_a_pattern_that_stays_in_float_is_not_taken_for_an_integer_one() -> None:
    graph = PATTERNS["Conv, 8 bits, static"].replace("y = DequantizeLinear(r, s, u)", "y = Identity(m)")
    trial = selftest._try("without quantized output", graph, ["QLinearConv"])
    assert trial.kernel is None and "Conv" in trial.remark


def test_a_model_that_does_not_load_has_the_reason() -> None:
    trial = selftest._try("odd", "g (float[1] x) => (float[1] y) { y = NoSuchOp(x) }", ["Conv"])
    assert trial.kernel is None and "NoSuchOp" in trial.remark


def test_the_processor_works_and_what_is_missing_does_not() -> None:
    assert try_provider("CPUExecutionProvider") == ProviderTrial(True)
    missing = try_provider("QNNExecutionProvider")
    if "QNNExecutionProvider" not in ort.get_available_providers():
        assert not missing.works and missing.remark


def test_a_wrong_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = onnx.numpy_helper.from_array(np.full((8, 8), 0.1, np.float32))
    monkeypatch.setattr(selftest, "_eye", lambda: wrong)
    assert try_provider("CPUExecutionProvider") == ProviderTrial(False, "its result is wrong")


def test_a_provider_that_kills_the_process_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """An integer division that overflows ends onnxruntime by a signal."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4, 8] x) => (float[4, 8] y)'
        "<int64[1] a = {-9223372036854775808}, int64[1] b = {-1}>"
        "{ c = Div(a, b) d = Cast<to = 1>(c) y = Add(x, d) }"
    )
    monkeypatch.setattr(selftest, "_model", lambda graph, **stored: model)
    trial = try_provider("CPUExecutionProvider")
    assert not trial.works and trial.remark


def test_exactness_follows_from_the_instructions() -> None:
    features = environment()["cpu_features"]
    exact = exact_products()
    assert exact is not None
    if {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(features):
        assert exact


@pytest.mark.parametrize(
    ("features", "word"),
    [
        (["avx2", "avx512f", "avx512bw", "avx512_vnni", "amx_int8"], "AMX"),
        (["avx2", "avx_vnni"], "VNNI: four"),
        (["avx2", "avx512f", "avx512bw"], "AVX-512 without"),
        (["avx2"], "AVX2 without"),
        (["asimddp", "i8mm"], "i8mm"),
        (["asimddp"], "dot products"),
        ([], "none of the known"),
    ],
)
def test_the_best_instructions_speak(features: list[str], word: str) -> None:
    assert integer_speed(features).startswith(word)
