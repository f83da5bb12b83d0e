"""What runs, as onnxruntime's own dump tells."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnxslim.errors import DependencyError, OptionError
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.errors import RuntimeRefused
from onnxslim.runtime.kernels import executed
from onnxslim.runtime.providers import available, resolve
from tests.models import proto

# the same convolution with its output quantized, which fuses, and without, which does not
QDQ = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {{
    s = Constant<value_float=0.1>()
    u = Constant<value = uint8 {{0}}>()
    q = QuantizeLinear(x, s, u)
    d = DequantizeLinear(q, s, u)
    i = Constant<value = int8 {{0}}>()
    wd = DequantizeLinear(w, s, i)
    c = Conv<pads=[1, 1, 1, 1]>(d, wd)
    {tail}
}}"""


def convolution(tail: str) -> object:
    made = proto(QDQ.format(tail=tail))
    weights = np.ones((4, 4, 3, 3), np.int8)
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return made


def test_a_fused_and_an_unfused_convolution() -> None:
    fused = executed(convolution("cq = QuantizeLinear(c, s, u) y = DequantizeLinear(cq, s, u)"))
    assert fused.kernel_of("cq") == "QLinearConv" and fused.kernel_of("c") is None
    left = executed(convolution("y = Identity(c)"))
    assert "QLinearConv" not in left.histogram and left.histogram["DequantizeLinear"] >= 1
    assert executed(convolution("y = Identity(c)"), optimize="none").kernel_of("wd") == "DequantizeLinear"


def test_branches_are_seen_and_readers_found() -> None:
    found = executed(
        proto(
            """g (bool p, float[2] x) => (float[2] y) { y = If(p) <
                then_branch = t () => (float[2] a) { a = Sin(x) },
                else_branch = e () => (float[2] b) { b = Cos(x) }> }"""
        )
    )
    assert {"If", "Sin", "Cos"} <= set(found.histogram) and found.kernel_of("a") == "Sin"
    assert [kernel.op_type for kernel in found.readers_of("p")] == ["If"]


def test_an_invalid_model_is_refused() -> None:
    with pytest.raises(RuntimeRefused):
        executed(proto("g (float[2] x) => (float[2] y) { y = NoSuchOp(x) }"))


def test_providers() -> None:
    assert "CPUExecutionProvider" in available()
    assert resolve(()) == resolve(["cpu"]) == resolve(["CPUExecutionProvider"]) == ("CPUExecutionProvider",)
    with pytest.raises(OptionError, match="no provider 'cud'"):
        resolve(["cud"])


def test_a_provider_that_does_not_start_is_not_replaced_in_silence() -> None:
    if "CUDAExecutionProvider" in available():
        pytest.skip("this onnxruntime has cuda")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    with open_worker() as worker, pytest.raises(RuntimeRefused, match="CUDAExecutionProvider"):
        worker.load(proto("g (float[2] x) => (float[2] y) { y = Neg(x) }"), providers=wanted)


@pytest.mark.parametrize(
    ("name", "package"), [("cuda", "onnxruntime-gpu"), ("openvino", "onnxruntime-openvino")]
)
def test_a_missing_provider_comes_with_the_pip_line(name: str, package: str) -> None:
    offered = " ".join(available()).lower()
    if name in offered:
        pytest.skip(f"this onnxruntime has {name}")
    with pytest.raises(DependencyError) as caught:
        resolve([name])
    assert caught.value.hint == f"pip install {package}" and caught.value.exit_code == 5
