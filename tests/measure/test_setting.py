"""Inputs that are drawn, and what is refused before anything is measured."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxslim.errors import DependencyError, ModelError, OnnxSlimError, OptionError
from onnxslim.measure.setting import Setting, draw_inputs, given_inputs
from tests.models import proto, run

DYNAMIC = "g (float[n, t] x, float[n] s) => (float[n, t] y) { u = Unsqueeze(s, one) y = Mul(x, u) }"


def dynamic() -> onnx.ModelProto:
    return proto(DYNAMIC.replace("{ u", "<int64[1] one = {1}> { u"))


def test_drawn_inputs_run_and_say_what_was_guessed() -> None:
    drawn = draw_inputs(dynamic(), Setting())
    assert len(drawn.feeds) > 1 and "guessed" in drawn.note and "x 1x8" in drawn.note
    for feed in drawn.feeds:
        run(dynamic(), feed)


def test_sizes_that_are_given_are_no_guess() -> None:
    drawn = draw_inputs(dynamic(), Setting(), dims={"n": 3, "t": 5})
    assert drawn.note == "" and drawn.shapes == "x 3x5, s 3"
    drawn = draw_inputs(dynamic(), Setting(), shapes={"x": (2, 4), "s": (2,)})
    assert drawn.note == "" and drawn.feeds[0]["x"].shape == (2, 4)


@pytest.mark.parametrize(
    ("dims", "shapes", "message"),
    [
        ({"m": 2}, {}, "no symbolic dimension 'm'"),
        ({}, {"z": (1,)}, "no input 'z'"),
        ({}, {"x": (1, 2, 3)}, "cannot have the shape 1,2,3"),
        ({}, {"x": (2, 4), "s": (3,)}, "no random input"),
    ],
)
def test_sizes_that_do_not_fit(
    dims: dict[str, int], shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        draw_inputs(dynamic(), Setting(), dims=dims, shapes=shapes)
    assert caught.value.hint


def test_a_fixed_dimension_cannot_be_changed() -> None:
    fixed = proto("g (float[2, 3] x) => (float[2, 3] y) { y = Neg(x) }")
    with pytest.raises(OptionError, match="cannot have the shape"):
        draw_inputs(fixed, Setting(), shapes={"x": (3, 3)})


def test_what_only_the_user_can_give_is_said() -> None:
    """A sequence cannot be drawn; a model that refuses every size says why."""
    sequence = proto("g (seq(float[n]) x) => (int64 y) { y = SequenceLength(x) }")
    with pytest.raises(OnnxSlimError, match="sequence"):
        draw_inputs(sequence, Setting())
    picky = proto("g (float[n] x) => (float[7, 11] y) <int64[2] s = {7, 11}> { y = Reshape(x, s) }")
    with pytest.raises(OptionError, match="no random input") as caught:
        draw_inputs(picky, Setting())
    assert "--data" in (caught.value.hint or "")


def test_a_model_that_does_not_load_is_named() -> None:
    with pytest.raises(ModelError) as caught:
        draw_inputs(proto("g (float[2] x) => (float[2] y) { y = NoSuchOp(x) }"), Setting())
    assert "NoSuchOp" in str(caught.value)


def test_given_inputs_are_few_and_without_labels() -> None:
    feeds = [{"x": np.full(2, i, np.float32), "__labels__": np.zeros(1)} for i in range(20)]
    inputs = given_inputs(feeds)
    assert [feed["x"][0] for feed in inputs.feeds] == list(range(8))
    assert all(list(feed) == ["x"] for feed in inputs.feeds)
    with pytest.raises(OptionError, match="no inputs"):
        given_inputs([])


def test_settings_are_checked() -> None:
    with pytest.raises(OptionError, match="thread"):
        Setting.of(0)
    with pytest.raises(OptionError, match="CUDA graph"):
        Setting.of(1, (), True)
    with pytest.raises(DependencyError) as caught:
        Setting.of(1, ["cuda"])
    assert "pip install onnxruntime-gpu" in (caught.value.hint or "")
    assert Setting.of(2).on_cpu is False and Setting.of(1).on_cpu is True


def test_threads_rest_between_calls() -> None:
    """Those of one session would take the cores from the other, with which it takes turns."""
    parsed = proto("g (float[64,256] x) => (float[64,256] y) { a = MatMul(x, w)  y = MatMul(a, w) }")
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(256, dtype="f"), "w"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 3
    for key, value in Setting.of(threads=3).options["config"].items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(parsed.SerializeToString(), options)
    session.run(None, {"x": np.ones((64, 256), np.float32)})
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.02  # two threads that spin take several times as much
