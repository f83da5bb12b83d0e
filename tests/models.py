"""Small models for tests, written in the onnx text format, and the reference that judges them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

from onnxslim._ir import ir

__all__ = ["model", "proto", "run", "with_weights"]


def proto(text: str, *, ir_version: int = 10, opset: int = 17, **opsets: int) -> onnx.ModelProto:
    """Parse a graph in the onnx text format; a header is put in front unless the text has one.

    Example:
        >>> proto("g (float[2] x) => (float[2] y) { y = Relu(x) }").graph.node[0].op_type
        'Relu'
    """
    if not text.lstrip().startswith("<"):
        imports = ", ".join(f'"{d}" : {v}' for d, v in {"": opset, **opsets}.items())
        text = f"<ir_version: {ir_version}, opset_import: [{imports}]>\n{text}"
    parsed = onnx.parser.parse_model(text)
    for function in parsed.functions:  # the text format leaves local functions' imports to the model
        if not function.opset_import:
            function.opset_import.extend(parsed.opset_import)
    return parsed


def model(text: str, **kwargs: Any) -> ir.Model:
    """The same as an ``ir.Model``."""
    return ir.from_proto(proto(text, **kwargs))


def run(
    source: ir.Model | onnx.ModelProto | bytes | str,
    feed: Mapping[str, Any],
    outputs: Sequence[str] | None = None,
) -> list[Any]:
    """Run in onnxruntime with its optimizations off: the reference for every rewrite."""
    if isinstance(source, ir.Model):
        source = ir.to_proto(source)
    if isinstance(source, onnx.ModelProto):
        source = source.SerializeToString()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return list(session.run(None if outputs is None else list(outputs), dict(feed)))


def bit_equal(a: Any, b: Any) -> bool:
    """Equal in dtype, shape and every bit (NaN payloads and signed zeros included)."""
    if isinstance(a, list) or isinstance(b, list):
        return isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and all(map(bit_equal, a, b))
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(np.array_equal(a, b)) if a.dtype == object else a.tobytes() == b.tobytes()


def with_weights(text: str) -> ir.Model:
    """The text's initializers without a value get random ones, positive since some are variances."""
    random = np.random.default_rng(0)

    def fill(match: re.Match[str]) -> str:
        kind, dims, name = match.groups()
        count = int(np.prod([int(d) for d in dims.split(",")]))
        values = ", ".join(f"{v:.4f}" for v in random.uniform(0.5, 1.5, count))
        return f"{kind}[{dims}] {name} = {{{values}}}"

    start = text.index("<", text.index("=>"))
    head, tail = text[:start], text[start:]
    end = tail.index(">")
    filled = re.sub(r"(float)\[([\d,]+)\] (\w+)(?= *[,>]|$)", fill, tail[:end])
    return model(head + filled + tail[end:])
