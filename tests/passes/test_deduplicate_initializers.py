"""What may be shared, and what would be slower for it.  (Properties: test_properties.py.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.passes import DeduplicateInitializers
from onnxslim.recipes.pipeline import Pipeline
from onnxslim.runtime.kernels import executed
from tests.models import bit_equal, proto, run


def twins(dtype: Any) -> onnx.ModelProto:
    """Two products with equal weights under two names."""
    values = (np.random.default_rng(0).standard_normal((32, 32)) / 4).astype(dtype)
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [oh.make_tensor_value_info(name, kind, [4, 32]) for name in "xy"]
    nodes = [oh.make_node("MatMul", ["x", "w1"], ["a"]), oh.make_node("MatMul", ["a", "w2"], ["y"])]
    weights = [onnx.numpy_helper.from_array(values, name) for name in ("w1", "w2")]
    graph = oh.make_graph(nodes, "twins", ends[:1], ends[1:], weights)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sharing_adds_no_work_at_run_time(dtype: Any) -> None:
    result = onnxslim.simplify(twins(dtype))
    before, after = executed(twins(dtype)).histogram, executed(result.to_proto()).histogram
    assert sum(after.values()) <= sum(before.values()), (before, after)
    shared = dtype != np.float16
    assert len(result.model.graph.initializers) == (1 if shared else 2)
    reasons = [d.reason for d in result.report.declined if d.pass_name == "deduplicate-initializers"]
    assert bool(reasons) is not shared and all("half-precision" in reason for reason in reasons)


def test_half_precision_is_shared_where_bytes_matter_more() -> None:
    result = Pipeline((DeduplicateInitializers(half=True),)).run(twins(np.float16))
    assert len(result.model.graph.initializers) == 1 and result.report.verification["ok"]


def test_constant_nodes_become_one_initializer_that_all_graphs_see() -> None:
    source = proto("""g (bool c, float[3] x) => (float[3] y, float[3] z) {
        z = If(c) <
            then_branch = t () => (float[3] a) { k = Constant<value = float[3] {1, 2, -0.0}>() a = Add(x, k) },
            else_branch = f () => (float[3] b) { m = Constant<value = float[3] {1, 2, 0}>() b = Add(x, m) }>
        n = Constant<value = float[3] {1, 2, 0}>()
        y = Mul(x, n) }""")
    after = ir.from_proto(source)
    assert DeduplicateInitializers()(after).modified and not DeduplicateInitializers()(after).modified
    assert list(after.graph.initializers) == ["n"], "what comes later in the graph is seen all the same"
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert [len(inner) for inner in after.graph.subgraphs()] == [2, 1], "0.0 and -0.0 are two constants"
    for way in (True, False):
        feed = {"c": np.array(way), "x": np.float32([1, -0.0, -0.0])}
        assert all(map(bit_equal, run(source, feed), run(after, feed)))


def test_a_constant_node_that_is_an_output_is_the_one_to_share() -> None:
    source = proto("""g (float[3] x) => (float[3] n, float[3] y) <float[3] w = {1, 2, 3}> {
        y = Mul(x, w)
        n = Constant<value = float[3] {1, 2, 3}>() }""")
    after = ir.from_proto(source)
    assert DeduplicateInitializers()(after).modified and list(after.graph.initializers) == ["n"]
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    feed = {"x": np.float32([4, 5, 6])}
    assert all(map(bit_equal, run(source, feed), run(after, feed)))


def test_constants_of_a_function_are_shared_inside_it() -> None:
    source = proto("""<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
g (float[2] x) => (float[2] y) <float[2] k = {1, 2}> { h = Mul(x, k)  y = local.f(h) }
<domain: "local", opset_import: ["" : 17]>
f (a) => (b) {
    k1 = Constant<value = float[2] {1, 2}>()  k2 = Constant<value = float[2] {1, 2}>()
    m = Mul(a, k1)  b = Add(m, k2) }""")
    result = onnxslim.share(source)
    [function] = result.model.functions.values()
    assert [node.op_type for node in function] == ["Constant", "Mul", "Add"]
    assert list(result.model.graph.initializers) == ["k"], "a function sees nothing from outside"
