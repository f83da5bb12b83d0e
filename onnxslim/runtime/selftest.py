"""What the installed onnxruntime can do on this machine, tried with models of a few nodes in the worker."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.parser

from onnxslim.errors import OnnxSlimError
from onnxslim.runtime.client import open_worker
from onnxslim.runtime.errors import RemoteError, RuntimeRefused
from onnxslim.runtime.kernels import executed

__all__ = [
    "KernelTrial",
    "ProviderTrial",
    "exact_products",
    "integer_speed",
    "reason",
    "try_kernels",
    "try_provider",
]

_SECONDS = 20.0  # an accelerator may compile its kernels at the first session
_CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class ProviderTrial:
    """One session with one provider.

    Attributes:
        works: the session starts with it and computes the right result.
        remark: why it does not, or what it left to the CPU; empty when there is nothing to say.
    """

    works: bool
    remark: str = ""


@dataclass(frozen=True, slots=True)
class KernelTrial:
    """What onnxruntime makes of one quantized pattern.

    Attributes:
        pattern: in words.
        kernel: the integer operator that runs, None where it stays in float.
        remark: what runs instead, or why nothing does.
    """

    pattern: str
    kernel: str | None
    remark: str = ""


def try_provider(name: str) -> ProviderTrial:
    """Run a product on one execution provider, alone in a process of its own, for 20 seconds at most.

    Args:
        name: onnxruntime's.

    Example:
        >>> try_provider("CPUExecutionProvider")
        ProviderTrial(works=True, remark='')
    """
    model = _model("g (float[4, 8] x) => (float[4, 8] y) { m = MatMul(x, w) y = Relu(m) }", w=_eye())
    x = np.arange(-16, 16, dtype=np.float32).reshape(4, 8)
    alone = {} if name == _CPU else {"session.disable_cpu_ep_fallback": "1"}
    try:
        with open_worker(fresh=True, wall_s=_SECONDS) as worker:
            remark = ""
            try:
                session = worker.load(model, providers=[name], config=alone)
            except RuntimeRefused:
                session = worker.load(model, providers=[name])
                remark = "it left the whole test to the CPU"
            [y] = session.run({"x": x})
    except (OnnxSlimError, RemoteError) as error:
        return ProviderTrial(False, reason(error))
    right = isinstance(y, np.ndarray) and np.allclose(y, np.maximum(x, 0), rtol=1e-2)
    return ProviderTrial(right, remark) if right else ProviderTrial(False, "its result is wrong")


# pattern -> the graph, and the operators of which one must run for it to count as computed in integers
_PATTERNS = (
    (
        "Conv, 8 bits, static",
        """g (float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) {
            q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) wd = DequantizeLinear(filter, s, i)
            m = Conv<pads = [1, 1, 1, 1]>(d, wd)
            r = QuantizeLinear(m, s, u) y = DequantizeLinear(r, s, u) }""",
        ("QLinearConv",),
    ),
    (
        "MatMul, 8 bits, static",
        """g (float[4, 64] x) => (float[4, 64] y) {
            q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) wd = DequantizeLinear(w, s, i)
            m = MatMul(d, wd) r = QuantizeLinear(m, s, u) y = DequantizeLinear(r, s, u) }""",
        ("QLinearMatMul", "MatMulIntegerToFloat"),
    ),
    (
        "Gemm, 8 bits, static",
        """g (float[4, 64] x) => (float[4, 64] y) {
            q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) wd = DequantizeLinear(w, s, i)
            m = Gemm<transB = 1>(d, wd) r = QuantizeLinear(m, s, u) y = DequantizeLinear(r, s, u) }""",
        ("QGemm",),
    ),
    (
        "MatMul, 8 bits, dynamic",
        """g (float[4, 64] x) => (float[4, 64] y) {
            q, a, z = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, z, i)
            f = Cast<to = 1>(m) b = Mul(a, s) y = Mul(f, b) }""",
        ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger"),
    ),
    (
        "MatMul, 4-bit weights",
        """g (float[4, 64] x) => (float[4, 64] y) {
            wd = DequantizeLinear<axis = 0, block_size = 32>(nibbles, blocks) y = MatMul(x, wd) }""",
        ("MatMulNBits",),
    ),
)


def try_kernels() -> tuple[KernelTrial, ...]:
    """Let onnxruntime optimize small quantized models for the CPU, and see which become integer kernels."""
    with open_worker(fresh=True, wall_s=_SECONDS):
        return tuple(_try(pattern, graph, wanted) for pattern, graph, wanted in _PATTERNS)


def _try(pattern: str, graph: str, wanted: Sequence[str]) -> KernelTrial:
    try:
        runs = executed(_model(graph, **_stored())).histogram
    except (OnnxSlimError, RemoteError) as error:
        return KernelTrial(pattern, None, reason(error))
    kernel = next((name for name in wanted if name in runs), None)
    return KernelTrial(pattern, kernel, "" if kernel else f"runs {', '.join(runs)}")


def exact_products() -> bool | None:
    """Whether sums of products of unsigned and signed 8-bit integers are exact at their largest.

    Processors without an instruction of their own for it add two products in 16 bits, which saturates.
    None where it could not be tried.
    """
    model = _model(
        "g (uint8[1, 64] x) => (int32[1, 64] y) { y = MatMulInteger(x, w) }",
        w=onnx.numpy_helper.from_array(np.full((64, 64), 127, np.int8)),
    )
    try:
        with open_worker(fresh=True, wall_s=_SECONDS) as worker:
            [y] = worker.load(model).run({"x": np.full((1, 64), 255, np.uint8)})
    except (OnnxSlimError, RemoteError):
        return None
    return isinstance(y, np.ndarray) and bool((y == 255 * 127 * 64).all())


def integer_speed(features: Collection[str]) -> str:
    """What these instructions mean for onnxruntime's 8-bit kernels, in a sentence.

    Example:
        >>> integer_speed(["avx2", "avx512f", "avx512_vnni"])
        'VNNI: four 8-bit products in one instruction; 8-bit kernels are fast'
    """
    return next((words for names, words in _SPEED if not names.isdisjoint(features)), _NO_SPEED)


_SPEED = (
    ({"amx_int8"}, "AMX: tiles of 8-bit products; 8-bit kernels are at their fastest"),
    (
        {"avx512_vnni", "avx_vnni", "avx_vnni_int8"},
        "VNNI: four 8-bit products in one instruction; 8-bit kernels are fast",
    ),
    ({"avx512bw"}, "AVX-512 without VNNI: 8-bit products take three instructions, which gains less"),
    ({"avx2"}, "AVX2 without VNNI: 8-bit products take three instructions, which gains little"),
    ({"i8mm"}, "i8mm: small matrices of 8-bit products; 8-bit kernels are at their fastest on ARM"),
    ({"asimddp"}, "dot products: four 8-bit products in one instruction; 8-bit kernels are fast"),
)
_NO_SPEED = "none of the known instructions for 8-bit products; 8-bit kernels may be slower than float"


def _model(graph: str, **stored: onnx.TensorProto) -> onnx.ModelProto:
    """The graph with those of the stored tensors that it reads."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {graph}')
    read = {name for node in model.graph.node for name in node.input}
    for name, tensor in stored.items():
        if name in read:
            tensor.name = name
            model.graph.initializer.append(tensor)
    return model


def _eye() -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32))


def _stored() -> dict[str, onnx.TensorProto]:
    """What the patterns read: scales, zero points and weights."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "s": np.array(0.1, np.float32),
        "u": np.array(0, np.uint8),
        "i": np.array(0, np.int8),
        "filter": np.ones((8, 8, 3, 3), np.int8),
        "w": np.ones((64, 64), np.int8),
        "blocks": np.ones((2, 64), np.float32),
    }
    tensors = {name: onnx.numpy_helper.from_array(array) for name, array in arrays.items()}
    nibbles = onnx.TensorProto(data_type=onnx.TensorProto.UINT4, dims=[64, 64], raw_data=bytes(64 * 32))
    return {**tensors, "nibbles": nibbles}


def reason(error: Exception) -> str:
    """What went wrong in the worker, in one line."""
    return error.what if isinstance(error, OnnxSlimError) else str(error).strip().splitlines()[-1]
