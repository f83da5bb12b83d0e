"""Zeros take a bit each, every value keeps its bits, and onnxruntime has decoded all of it when a model runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.passes.base import collect_declines
from onnxslim.passes.pack_zeros import PackZeros
from tests.models import bit_equal, proto, run

TEXT = "g (float[n,32] x) => (float[n,40] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"


def sparse(share: float, *, opset: int = 17, last: float = 1.0) -> ir.Model:
    """Two weights with that share of zeros; one has an element for which no byte is full."""
    random = np.random.default_rng(0)
    made = proto(TEXT, opset=opset)
    for name, shape in (("w", (32, 45)), ("v", (45, 40))):
        array = random.normal(size=shape).astype(np.float32)
        array[random.random(shape) < share] = 0
        array[-1, -1] = last
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(made)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("last", [1.0, -0.0, np.nan])
def test_outputs_keep_every_bit(share: float, last: float, tmp_path: Path) -> None:
    model = sparse(share, last=last)
    packed = model.clone()
    assert PackZeros()(packed).modified and not PackZeros()(packed).modified
    onnx.checker.check_model(ir.to_proto(packed), full_check=True)
    feed = {"x": np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)}
    for before, after in zip(run(model, feed), run(packed, feed), strict=True):
        assert bit_equal(before, after)
    values = {value.name: value for node in packed.graph for value in node.outputs}
    packed.graph.outputs.extend(values[f"{name}_w"] for name in "wv")
    for name, found in zip("wv", run(packed, feed, ["w_w", "v_w"]), strict=True):  # a product hides a -0.0
        assert bit_equal(edit.constant_value(model.graph.initializers[name]), found)
    before, after = (len(ir.to_proto(each).SerializeToString()) for each in (model, packed))
    assert after < (1 - share + 0.04) * before + 1600


def test_nothing_is_left_to_do_at_run_time(tmp_path: Path) -> None:
    model = sparse(0.7)
    PackZeros()(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "built.onnx")
    content = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    built = onnx.load(tmp_path / "built.onnx")
    assert {node.op_type for node in built.graph.node} <= {"MatMul", "Relu"}


def test_what_does_not_pay_stays() -> None:
    assert not PackZeros()(sparse(0.02)).modified
    model = sparse(0.6)
    with collect_declines() as log:
        assert PackZeros(exclude="w")(model).modified
    assert [(entry.node, entry.reason) for entry in log.entries] == [("w", "excluded by the user")]
    assert "w" in model.graph.initializers and "v" not in model.graph.initializers
    with collect_declines() as log:
        assert not PackZeros()(sparse(0.6, opset=10)).modified
    assert "older" in log.entries[0].reason


def test_prune_stores_zeros_compactly() -> None:
    random = np.random.default_rng(1)
    feeds = {"x": random.normal(size=(16, 32)).astype(np.float32)}
    result = onnxslim.prune(sparse(0.0), feeds, granularity="weight", sparsity=0.8, criterion="l1")
    assert result.report.ratio("bytes") < 0.5
    assert {"w_v", "v_v"} <= set(result.model.graph.initializers)
    values = edit.constant_value(result.model.graph.initializers["w_v"])
    assert values is not None and len(values) == 1 + 32 * 45 - round(0.8 * 32 * 45)
