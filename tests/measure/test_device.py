"""The path of an accelerator, without one: a recorded list of providers, and bound memory on the host."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.errors import DependencyError, OptionError
from onnxslim.measure.latency import measure_latency
from onnxslim.measure.remote.transfers import transfers
from onnxslim.measure.setting import Inputs, Setting
from onnxslim.measure.verdict import choose_clock
from onnxslim.runtime import providers
from onnxslim.runtime.client import BoundSession, open_worker
from onnxslim.runtime.sessions import DeviceRun
from tests.measure.test_latency import made_up
from tests.models import proto, run

# what onnxruntime-gpu says of itself on a machine with CUDA
RECORDED = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
TEXT = "g (float[2, 3] x, float[3, 2] z) => (float[2, 2] y, float[2, 3] n) { y = MatMul(x, z) n = Neg(x) }"


@pytest.fixture
def feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(2, 3)).astype(np.float32),
        "z": rng.normal(size=(3, 2)).astype(np.float32),
    }


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "available", lambda: RECORDED)


def test_cuda_is_measured_in_its_own_memory(gpu: None) -> None:
    setting = Setting.of(1, ["cuda", "cpu"])
    assert setting.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert setting.device == "cuda" and not setting.on_cpu
    assert setting.options["providers"] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_cuda_graph_is_an_option_of_the_provider(gpu: None) -> None:
    options = Setting.of(1, ["cuda"], cuda_graph=True).options
    assert options["providers"] == [("CUDAExecutionProvider", {"enable_cuda_graph": "1"})]


def test_tensorrt_and_the_host(gpu: None) -> None:
    assert Setting.of(1, ["tensorrt", "cuda"]).device == "cuda"
    assert Setting.of(1, ["cpu"]).device is None
    with pytest.raises(OptionError, match="CUDA graph"):
        Setting.of(1, ["tensorrt"], cuda_graph=True)


def test_cpu_time_says_nothing_about_a_device(gpu: None) -> None:
    interrupted = made_up(0.9, interrupted=1.6)
    assert choose_clock(interrupted, Setting.of(1).on_cpu)[0] == "cpu"
    assert choose_clock(interrupted, Setting.of(1, ["cuda"]).on_cpu)[0] == "wall"


@pytest.mark.parametrize(
    ("name", "package"), [("cuda", "onnxruntime-gpu"), ("openvino", "onnxruntime-openvino")]
)
def test_a_missing_provider_names_its_package(name: str, package: str, feed: dict[str, np.ndarray]) -> None:
    with pytest.raises(DependencyError) as caught:
        measure_latency(proto(TEXT), feeds=[feed], providers=[name], budget_s=0.1)
    assert caught.value.exit_code == 5 and caught.value.hint == f"pip install {package}"


def test_bound_memory_gives_the_same_outputs(feed: dict[str, np.ndarray]) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession(proto(TEXT).SerializeToString(), providers=["CPUExecutionProvider"])
    bound = DeviceRun(session, feed, "cpu")
    bound()
    for got, expected in zip(bound.binding.copy_outputs_to_cpu(), run(proto(TEXT), feed), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_parts_of_a_call_are_timed_apart(feed: dict[str, np.ndarray]) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession(proto(TEXT).SerializeToString(), providers=["CPUExecutionProvider"])
    parts = transfers(session, [feed], "cpu", 0.01)
    assert set(parts) == {"to_device_s", "compute_s", "to_host_s"} and min(parts.values()) > 0


def test_the_worker_binds_a_session_to_a_device(feed: dict[str, np.ndarray]) -> None:
    with open_worker(fresh=True) as worker, worker.load(proto(TEXT)) as session:
        epoch = worker.call(
            "onnxslim.measure.remote.loop:epoch", [BoundSession(session, "cpu")] * 2, [feed], 0.05, 0
        )
    assert epoch["wall"].shape[1] == 2 and (epoch["wall"] > 0).all()


def test_shapes_for_people() -> None:
    assert Inputs(({"x": np.zeros((1, 3)), "s": np.zeros(())},)).shapes == "x 1x3, s scalar"
