"""Limits of indices against onnxruntime: the last index runs, the next one is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from onnxslim._ir import ir
from onnxslim.analysis.indices import index_limits
from tests.models import proto

STORED = """float[3,5] w = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14},
    int64[2] column = {2, 1}, int64[1] zero = {0}"""
CAST = "a = Cast<to: int = 7>(i) y = Gather(w, a)"
CASES = [
    ("int64[2] i", "y = Gather(w, i)", 3),
    ("int64[2] i", "y = Gather<axis: int = -1>(w, i)", 5),
    ("int64[2] i", "a = Gather<axis: int = 1>(w, i) y = Gather(a, i)", 3),
    ("int64[2,5] i", "y = GatherElements<axis: int = 1>(w, i)", 5),
    ("int64[3,1] i", "y = GatherND<batch_dims: int = 1>(w, i)", 5),
    ("int64[1,5] i, float[1,5] u", "y = ScatterElements(w, i, u)", 3),
    ("int64[1,2] i, float[1] u", "y = ScatterND(w, i, u)", 3),
    ("int32[2] i", CAST, 3),
    ("uint8[2] i", CAST, 3),
    ("float[2] i", CAST, 3),
    ("int64[2] i", "a = Reshape(i, column) b = Unsqueeze(a, zero) c = Transpose(b) y = Gather(w, c)", 3),
    ("int64[2] i, float[4,2] x", "a = Relu(x) y = Gather(a, i)", 4),
    (
        "int64[2] i, bool c",
        """y = If (c) <then_branch: graph = t () => (a) { a = Gather(w, i) },
                       else_branch: graph = e () => (b) { b = Gather(w, i) }>""",
        3,
    ),
]


def graph(inputs: str, nodes: str) -> onnx.ModelProto:
    return proto(f"g ({inputs}) => (y) <{STORED}> {{ {nodes} }}")


def feed(model: onnx.ModelProto, index: int) -> dict[str, Any]:
    found = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        found[value.name] = np.full(shape, index if value.name == "i" else 1, dtype)
    return found


@pytest.mark.parametrize(("inputs", "nodes", "size"), CASES)
def test_the_last_index_runs_and_the_next_does_not(inputs: str, nodes: str, size: int) -> None:
    model = graph(inputs, nodes)
    limits = index_limits(ir.from_proto(model))
    assert set(limits) == {"i"} and min(map(int, limits["i"])) == size
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    session.run(None, feed(model, size - 1))
    with pytest.raises(Exception, match=r"indice|out of|index"):
        session.run(None, feed(model, size))


def test_what_is_computed_is_no_index() -> None:
    """Of a sum nothing is known: which part of it must lie within the axis?"""
    model = graph("int64[2] i, int64[2] j", "a = Add(i, j) y = Gather(w, a)")
    assert index_limits(ir.from_proto(model)) == {}


def test_open_axes_go_by_their_names() -> None:
    model = graph("int64[k] i, float[n,2] x", "y = Gather(x, i)")
    assert index_limits(ir.from_proto(model)) == {"i": ("n",)}


def test_each_table_of_an_embedding() -> None:
    names = ["ids", "segments", "words", "positions", "types", "gamma", "beta"]
    node = helper.make_node("EmbedLayerNormalization", names, ["y", "m"], domain="com.microsoft")
    kinds = [onnx.TensorProto.INT32] * 2 + [onnx.TensorProto.FLOAT] * 5
    shapes = [[1, 4], [1, 4], [9, 8], [4, 8], [2, 8], [8], [8]]
    values = [helper.make_tensor_value_info(*each) for each in zip(names, kinds, shapes, strict=True)]
    made = helper.make_graph([node], "g", values, [])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(helper.make_model(made, opset_imports=opsets))
    assert index_limits(model) == {"ids": (9,), "segments": (2,)}
