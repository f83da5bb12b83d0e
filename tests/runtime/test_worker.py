"""The worker: values in and out, and models that crash, hang or eat memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxslim._ir import ir
from onnxslim.errors import ModelError, ResourceError
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.errors import MemoryLimit, RemoteError, RuntimeRefused, WorkerDied, WorkerTimeout
from tests.models import bit_equal, model, proto, run


@pytest.fixture(scope="module")
def worker() -> Any:
    with open_worker(budget_bytes=1 << 30, wall_s=60) as worker:
        yield worker


ADD = "g (float[n, 2] x, float[2] b) => (float[n, 2] y) { y = Add(x, b) }"
OVERFLOW = "g (int64[1] x) => (int64[1] y) { m = Constant<value_ints=[-1]>() y = Div(x, m) }"
LOWEST = {"x": np.array([np.iinfo(np.int64).min])}
BOMB = "g (int64[1] s) => (float[n] y) { z = ConstantOfShape(s) y = Neg(z) }"
FOREVER = """g (int64 n) => (int64 z) {
    c = Constant<value = bool {1}>()
    z = Loop(n, c, n) <body = b (int64 i, bool k, int64 a) => (bool k2, int64 a2) {
        k2 = Identity(k) one = Constant<value_int=1>() a2 = Add(a, one) }>
}"""


@pytest.mark.parametrize("form", ["ir", "proto", "bytes", "path", "str"])
def test_every_form_of_a_model_runs(worker: Worker, form: str, tmp_path: Path) -> None:
    message = proto(ADD)
    path = tmp_path / "m.onnx"
    onnx.save(message, path)
    forms = {"ir": model(ADD), "proto": message, "bytes": message.SerializeToString(), "path": path}
    session = worker.load({**forms, "str": str(path)}[form])
    assert [(i.name, i.dtype, i.shape) for i in session.inputs] == [
        ("x", "float32", ("n", 2)),
        ("b", "float32", (2,)),
    ]
    feed = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "b": np.ones(2, np.float32)}
    assert bit_equal(session.run(feed), run(message, feed))


@pytest.mark.parametrize(
    "value",
    [
        np.array(1.5, np.float32),
        np.zeros((0, 3)),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(10.0)[::-2],
        np.arange(3).astype(">f8"),
        np.array([True, False]),
        np.array([np.nan, -0.0, np.inf], np.float16),
        np.array(["a", "", "bé\u4e2d"], object),
        np.array(["ab", "c"]),
        np.array([1 + 2j], np.complex64),
        np.array([1.5, -2.25, 3.0], ml_dtypes.bfloat16),
        np.array([[0.5], [448.0]], ml_dtypes.float8_e4m3fn),
        np.array(0.25, ml_dtypes.float8_e5m2),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_values_come_back_bit_for_bit(worker: Worker, value: np.ndarray[Any, Any]) -> None:
    if value.dtype.kind in "OU":
        kind, expected = TensorProto.STRING, value.astype(object)
    elif value.dtype.kind == "c":  # no kernel takes it: the message itself must hold it
        assert bit_equal(worker.call("numpy:asarray", value), value)
        return
    else:
        expected = np.asarray(value, value.dtype.newbyteorder("="))
        kind = helper.np_dtype_to_tensor_dtype(expected.dtype)
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", kind, [None] * value.ndim)],
            [helper.make_tensor_value_info("y", kind, [None] * value.ndim)],
        ),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 21)],
    )
    session = worker.load(made)
    assert session.inputs[0].dtype == ("string" if value.dtype.kind in "OU" else expected.dtype.name)
    assert bit_equal(session.run({"x": value})[0], expected)


@pytest.mark.parametrize(("name", "low", "high"), [("int4", -8, 7), ("uint4", 0, 15)])
def test_four_bit_integers_go_in_and_out(worker: Worker, name: str, low: int, high: int) -> None:
    text = f"g ({name}[n] x) => (float[n] y) {{ s = Constant<value_float=1.0>() y = DequantizeLinear(x, s) }}"
    values = np.array([low, high, 0, 1, 3], getattr(ml_dtypes, name))  # an odd number: half a byte is left
    assert worker.load(proto(text, opset=21)).run({"x": values})[0].tolist() == [low, high, 0, 1, 3]
    text = f"""g (float[n] x) => ({name}[n] y) {{
        s = Constant<value_float=1.0>() z = Constant<value = {name} {{0}}>() y = QuantizeLinear(x, s, z) }}"""
    out = worker.load(proto(text, opset=21)).run({"x": values.astype(np.float32)})[0]
    assert out.dtype == values.dtype and out.astype(int).tolist() == values.astype(int).tolist()


def test_sequences_and_empty_optionals(worker: Worker) -> None:
    pair = worker.load(proto("g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }"))
    assert (pair.outputs[0].kind, pair.outputs[0].dtype, pair.outputs[0].shape) == (
        "sequence",
        "float32",
        None,
    )
    x = np.array([1, 2], np.float32)
    assert bit_equal(pair.run({"x": x}), [[x, x]])
    last = worker.load(
        proto("g (seq(float[n]) x) => (float[n] y) { i = Constant<value_int=-1>() y = SequenceAt(x, i) }")
    )
    assert bit_equal(last.run({"x": [x, x + 1]}), [x + 1])
    has = worker.load(proto("g (optional(float[2]) x) => (bool y) { y = OptionalHasElement(x) }", opset=18))
    assert has.inputs[0].kind == "optional"
    assert [bool(has.run({"x": value})[0]) for value in (None, x)] == [False, True]


def test_outputs_by_name_and_several_sessions(worker: Worker) -> None:
    text = "g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Abs(x) }"
    with worker.load(proto(text)) as one, worker.load(proto(ADD)) as two:
        assert one.run({"x": np.array([-1, 2], np.float32)}, ["z"])[0].tolist() == [1, 2]
        assert two.run({"x": np.ones((1, 2), np.float32), "b": np.ones(2, np.float32)})[0].tolist() == [
            [2, 2]
        ]
    with pytest.raises(WorkerDied, match="closed"):
        one.run({"x": np.ones(2, np.float32)})


def test_external_data_is_found_and_not_copied(worker: Worker, tmp_path: Path) -> None:
    weights = np.arange(1000, dtype=np.float32)
    message = proto(
        "g (float[1000] x) => (float[1000] y) { y = Add(x, w) }".replace("{ y", "<float[1000] w> { y")
    )
    message.graph.ClearField("value_info")
    message.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(message, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    loaded = ir.load(tmp_path / "m.onnx")
    for form in (loaded, tmp_path / "m.onnx"):
        assert bit_equal(worker.load(form).run({"x": weights}), [weights * 2])
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_a_model_too_large_for_a_message_goes_through_a_file(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxslim.runtime.sources._LARGE", 1000)
    large = model("g (float[4000] x) => (float[4000] y) { y = Add(x, w) }")
    weights = np.arange(4000, dtype=np.float32)
    value = ir.Value(name="w", const_value=ir.tensor(weights, name="w"))
    large.graph.register_initializer(value)
    for node in large.graph:
        node.replace_input_with(1, value)
    session = worker.load(large)
    assert bit_equal(session.run({"x": weights}), [weights * 2])


def test_a_crash_names_the_signal_and_the_next_request_works() -> None:
    with open_worker(fresh=True) as worker:
        session = worker.load(proto(OVERFLOW))
        with pytest.raises(WorkerDied, match="SIGFPE"):
            session.run(LOWEST)
        with pytest.raises(WorkerDied, match="session is gone"):
            session.run({"x": np.array([1])})
        session.close()
        assert worker.load(proto(OVERFLOW)).run({"x": np.array([6])})[0].tolist() == [-6]


def test_a_worker_killed_while_idle_is_noticed() -> None:
    with open_worker(fresh=True) as worker:
        session = worker.load(proto(OVERFLOW))
        os.kill(worker.call("os:getpid"), signal.SIGKILL)
        with pytest.raises(WorkerDied):
            session.run({"x": np.array([1])})
        assert worker.load(proto(OVERFLOW)).run({"x": np.array([6])})[0].tolist() == [-6]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is enforced on Linux")
def test_a_memory_bomb_is_an_error_and_the_worker_survives() -> None:
    with open_worker(budget_bytes=300 << 20, fresh=True) as worker:
        session = worker.load(proto(BOMB))
        with pytest.raises(MemoryLimit, match="300 MB"):
            session.run({"s": np.array([2 << 30])})
        assert session.run({"s": np.array([3])})[0].tolist() == [0, 0, 0]


def test_an_endless_loop_is_killed() -> None:
    with open_worker(fresh=True) as worker:
        session = worker.load(proto(FOREVER))
        with pytest.raises(WorkerTimeout, match=r"running the model after 0\.3 s"):
            session.run({"n": np.array(2**62)}, timeout=0.3)
        assert worker.load(proto(OVERFLOW)).run({"x": np.array([6])})[0].tolist() == [-6]


def test_refusals_are_short_and_name_the_node(worker: Worker) -> None:
    with pytest.raises(RuntimeRefused, match="NoSuchOp"):
        worker.load(proto("g (float[2] x) => (float[2] y) { y = NoSuchOp(x) }"))
    session = worker.load(proto("g (float[a] x, float[b] z) => (float[c] y) { [adder] y = Add(x, z) }"))
    with pytest.raises(RuntimeRefused) as caught:
        session.run({"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)})
    assert caught.value.where is not None and "Add" in caught.value.where
    assert "\n" not in caught.value.what and "/onnxruntime/" not in caught.value.what
    with pytest.raises(RuntimeRefused):
        session.run({"x": np.ones(2, np.float32)})
    with pytest.raises(RuntimeRefused):
        worker.load(b"not a model")


def test_paths_that_would_block_are_refused(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(ModelError, match="the model"):
            worker.load(path)


def test_call_passes_sessions_arrays_and_errors(worker: Worker) -> None:
    session = worker.load(proto(OVERFLOW))
    got = worker.call("builtins:len", [np.ones(3), (1, "two", None), {"k": b"bytes"}])
    assert got == 3
    assert worker.call("builtins:str", session).startswith("<onnxruntime")
    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        worker.call("operator:truediv", 1, 0)
    with pytest.raises(TypeError, match="cannot be sent"):
        worker.call("builtins:len", object())
    assert worker.call("builtins:len", [1]) == 1  # nothing was half sent


def test_output_of_libraries_does_not_mix_with_the_answers(worker: Worker) -> None:
    assert worker.call("builtins:print", "noise") is None
    assert worker.call("os:system", "echo noise; echo noise >&2") == 0
    assert worker.call("os:write", 1, b"noise") == 5


def test_the_child_has_numpy_and_onnxruntime_only(worker: Worker) -> None:
    worker.load(proto(ADD))
    loaded = set(worker.call("builtins:list", worker.call("onnxslim.runtime.probe:modules")))
    assert {"numpy", "onnxruntime"} <= loaded
    assert not loaded & {"onnx", "onnx_ir", "ml_dtypes", "sympy", "click", "rich", "google", "pytest"}


def test_a_nested_worker_is_the_outer_one(worker: Worker) -> None:
    with open_worker() as one:
        assert one is worker or one is not None
        with open_worker() as two:
            assert two is one
        with open_worker(fresh=True) as three:
            assert three is not one


SCRIPT = """
import sys
import numpy as np
from onnx.parser import parse_model
from onnxslim.runtime.client import open_worker
print("script runs")
with open_worker() as worker:
    session = worker.load(parse_model(sys.argv[1]))
    print(worker.call("os:getpid"), flush=True)
    session.run({"n": np.array(2**62)})
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_child_ends_with_its_parent_also_in_a_long_run(how: signal.Signals, tmp_path: Path) -> None:
    """An unguarded script, run from a folder with a module that would shadow numpy."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "sub").mkdir()
    script = tmp_path / "sub" / "script.py"
    script.write_text(SCRIPT)
    text = f'<ir_version: 8, opset_import: ["" : 13]> {FOREVER}'
    parent = subprocess.Popen(
        [sys.executable, script, text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"script runs\n"  # once: the child does not run the script again
    child = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.send_signal(how)
    parent.wait(10)
    parent.stdout.close()
    for _ in range(100):
        if not Path(f"/proc/{child}/stat").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


def test_threads_may_share_a_worker(worker: Worker) -> None:
    session = worker.load(proto(OVERFLOW))
    wrong: list[int] = []

    def many(k: int) -> None:
        wrong.extend(k for _ in range(20) if session.run({"x": np.array([k])})[0].tolist() != [-k])

    threads = [threading.Thread(target=many, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_errors_are_resource_errors() -> None:
    assert all(issubclass(error, ResourceError) for error in (WorkerDied, WorkerTimeout, MemoryLimit))
