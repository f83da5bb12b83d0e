"""How each peer makes its model: one function per method, run by the peer's own python.

    python -I builders.py METHOD SOURCE FEEDS TARGET

FEEDS is a folder of .npz files, each a complete feed.  This file is a script that imports nothing of this
project: in the peer's environment our import name may mean another project.  Each method is called the way
its own documentation recommends, with what is known to give it the best result in onnxruntime on a CPU.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]
GEMMS = ("Conv", "Gemm", "MatMul")


def feeds(folder: str) -> Iterator[Feed]:
    """The feeds of a folder, in the order of their names."""
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path) as stored:
            yield {key: stored[key] for key in stored}


def static(
    source: str, folder: str, target: str, calibration: str = "MinMax", types: Sequence[str] | None = None
) -> None:
    """Static 8-bit quantization by onnxruntime: unsigned activations, signed weights.

    Weights are quantized per channel where the operator set has that (13 and newer).  The model is prepared
    as recommended; where symbolic shapes cannot be inferred, that step is left out, as the tool itself says.

    Args:
        types: the operators to quantize; default all that can be.
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = feeds(folder)

        def get_next(self) -> Feed | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as temporary:
        prepared = str(Path(temporary) / "prepared.onnx")
        try:
            quantization.quant_pre_process(source, prepared)
        except Exception:  # its symbolic shapes fail on some models, with errors of any kind
            quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        opsets = {opset.domain: opset.version for opset in onnx.load(prepared).opset_import}
        quantization.quantize_static(
            prepared,
            target,
            Reader(),
            op_types_to_quantize=types,
            per_channel=opsets.get("", opsets.get("ai.onnx", 1)) >= 13,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod[calibration],
        )


def static_gemms(source: str, folder: str, target: str) -> None:
    """Static quantization of the operators with weights alone."""
    static(source, folder, target, types=GEMMS)


def static_percentile(source: str, folder: str, target: str) -> None:
    """Static quantization with ranges that leave out the rarest activations."""
    static(source, folder, target, calibration="Percentile")


def dynamic(source: str, folder: str, target: str, types: Sequence[str] | None = None) -> None:
    """Dynamic 8-bit quantization by onnxruntime of all but Conv, whose integer form is many times slower."""
    from onnxruntime import quantization
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    chosen = types or [name for name in IntegerOpsRegistry if name != "Conv"]
    quantization.quantize_dynamic(
        source, target, op_types_to_quantize=chosen, weight_type=quantization.QuantType.QInt8
    )


def dynamic_matmul(source: str, folder: str, target: str) -> None:
    """Dynamic quantization of MatMul and Gemm alone."""
    dynamic(source, folder, target, types=["MatMul"])  # it turns every Gemm into one first


def four_bits(source: str, folder: str, target: str) -> None:
    """MatMulNBits: weights of 4 bits in blocks of 32, multiplied in 8 bits."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=32, accuracy_level=4)
    quantizer.process()
    quantizer.model.save_model_to_file(target)


def saved_graph(source: str, folder: str, target: str) -> None:
    """The graph that onnxruntime makes of the model, saved; without the layouts of this one machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = target
    options.log_severity_level = 3  # it warns that fused operators are its own
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnxsim(source: str, folder: str, target: str) -> None:
    """The simplifier onnxsim."""
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(source)
    onnx.save(model, target)


def onnxslim(source: str, folder: str, target: str) -> None:
    """The simplifier OnnxSlim, by the other project of our import name."""
    import onnxslim

    onnxslim.slim(source, target)


def nncf(source: str, folder: str, target: str) -> None:
    """Post-training quantization by NNCF on its ONNX backend."""
    import nncf
    import onnx

    calibration = list(feeds(folder))
    model = nncf.quantize(
        onnx.load(source),
        nncf.Dataset(calibration),
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(calibration),
    )
    onnx.save(model, target)


BUILDERS: dict[str, Callable[[str, str, str], None]] = {
    "ort-static": static,
    "ort-static-gemms": static_gemms,
    "ort-static-percentile": static_percentile,
    "ort-dynamic": dynamic,
    "ort-dynamic-matmul": dynamic_matmul,
    "ort-4bit": four_bits,
    "ort-graph": saved_graph,
    "onnxsim": onnxsim,
    "OnnxSlim": onnxslim,
    "nncf": nncf,
}

if __name__ == "__main__":
    method, *paths = sys.argv[1:]
    BUILDERS[method](*paths)
