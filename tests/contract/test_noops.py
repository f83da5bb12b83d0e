"""What hands an input on unchanged, as ``OpSpec.identity_input`` claims, judged by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.shape_inference
import pytest

from onnxslim._ir import ir
from onnxslim.model.edit import constant_value
from onnxslim.ops.registry import spec_of
from tests.models import bit_equal, proto, run


class Declared:
    """Facts of a model whose shapes and constants are all declared."""

    def shape(self, value: ir.Value) -> tuple[Any, ...] | None:
        return (
            None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
        )

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        return value.dtype

    def constant(self, value: ir.Value) -> Any:
        return constant_value(value)


SAME, OTHER = True, False
NOOPS = [
    (SAME, "float[2,3]", "Identity(x)", ""),
    (SAME, "float[2,3]", "Add(x, c)", "float c = {-0.0}"),
    (SAME, "float[2,3]", "Add(c, x)", "float[3] c = {-0.0, -0.0, -0.0}"),
    (OTHER, "float[2,3]", "Add(x, c)", "float c = {0.0}"),
    (OTHER, "float[2,3]", "Add(x, c)", "float[1,1,1] c = {-0.0}"),
    (SAME, "int64[2,3]", "Add(x, c)", "int64 c = {0}"),
    (SAME, "float[2,3]", "Sub(x, c)", "float c = {0.0}"),
    (OTHER, "float[2,3]", "Sub(x, c)", "float c = {-0.0}"),
    (OTHER, "float[2,3]", "Sub(c, x)", "float c = {0.0}"),
    (SAME, "float[2,3]", "Mul(x, c)", "float[1] c = {1.0}"),
    (OTHER, "float[2,3]", "Mul(x, c)", "float c = {-1.0}"),
    (SAME, "float[2,3]", "Div(x, c)", "float c = {1.0}"),
    (OTHER, "float[2,3]", "Div(c, x)", "float c = {1.0}"),
    (SAME, "bool[2,3]", "And(x, c)", "bool c = {1}"),
    (SAME, "bool[2,3]", "Or(x, c)", "bool c = {0}"),
    (OTHER, "bool[2,3]", "Or(x, c)", "bool c = {1}"),
    (SAME, "float[2,3]", "Cast<to = 1>(x)", ""),
    (OTHER, "double[2,3]", "Cast<to = 1>(x)", ""),
    (SAME, "float[2,3]", "Transpose<perm = [0, 1]>(x)", ""),
    (OTHER, "float[2,3]", "Transpose(x)", ""),
    (SAME, "float[3]", "Transpose(x)", ""),
    (SAME, "float[2,3]", "Reshape(x, c)", "int64[2] c = {-1, 3}"),
    (OTHER, "float[2,3]", "Reshape(x, c)", "int64[2] c = {3, 2}"),
    (SAME, "float[2,3]", "Flatten(x)", ""),
    (SAME, "float[2,3]", "Expand(x, c)", "int64[2] c = {1, 3}"),
    (SAME, "float[2,3]", "Slice(x, c, d)", "int64[2] c = {0, -9}, int64[2] d = {2, 9223372036854775807}"),
    (OTHER, "float[2,3]", "Slice(x, c, d)", "int64[2] c = {0, 1}, int64[2] d = {2, 3}"),
    (SAME, "float[2,3]", "Tile(x, c)", "int64[2] c = {1, 1}"),
    (OTHER, "float[2,3]", "Tile(x, c)", "int64[2] c = {1, 2}"),
    (SAME, "float[2,3]", "Pad(x, c)", "int64[4] c = {0, 0, 0, 0}"),
    (OTHER, "float[2,3]", "Pad(x, c)", "int64[4] c = {0, 0, 0, 1}"),
    (SAME, "float[2,3]", "Concat<axis = 1>(x)", ""),
    (OTHER, "float[2,3]", "Concat<axis = 1>(x, x)", ""),
    (SAME, "float[2,3]", "Split<axis = 0>(x)", ""),
    (SAME, "float[2,3]", "Max(x)", ""),
    (SAME, "float[2,3]", "Sum(x)", ""),
    (SAME, "float[2,3]", "Dropout(x)", ""),
    (SAME, "float[2,3]", "Dropout(x, c, d)", "float c = {0.5}, bool d = {0}"),
    (OTHER, "float[2,3]", "Dropout(x, c, d)", "float c = {0.5}, bool d = {1}"),
    (SAME, "float[2,3]", "ReduceSum<noop_with_empty_axes = 1>(x)", ""),
    (OTHER, "float[2,3]", "ReduceSum(x)", ""),
    (SAME, "float[2,3]", "Where(c, x, d)", "bool c = {1}, float d = {5}"),
    (OTHER, "float[2,3]", "Where(c, x, d)", "bool c = {0}, float d = {5}"),
    (SAME, "float[1,2,4,4]", "Resize<mode = \"linear\">(x, , c)", "float[4] c = {1, 1, 1, 1}"),
    (SAME, "float[1,2,4,4]", "Resize<mode = \"cubic\">(x, , , c)", "int64[4] c = {1, 2, 4, 4}"),
    (OTHER, "float[1,2,4,4]", "Resize(x, , c)", "float[4] c = {1, 1, 2, 2}"),
    (SAME, "float[1,4,2,2]", "DepthToSpace<blocksize = 1>(x)", ""),
    (OTHER, "float[1,4,2,2]", "DepthToSpace<blocksize = 2>(x)", ""),
]  # fmt: skip


@pytest.mark.parametrize(("same", "kind", "call", "constants"), NOOPS)
def test_what_hands_its_input_on(same: bool, kind: str, call: str, constants: str) -> None:
    """Where nothing is said to change, not a bit does; close relatives that change it are told apart."""
    built = proto(f"g ({kind} x) => (y) {f'<{constants}>' if constants else ''} {{ y = {call} }}")
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(built, data_prop=True))
    [node] = inferred.graph
    spec = spec_of(node)
    assert spec is not None and spec.identity_input is not None
    index = spec.identity_input(node, Declared())
    assert (index is not None and node.inputs[index] is inferred.graph.inputs[0]) == same
    if not same:
        return
    shape, name = Declared().shape(inferred.graph.inputs[0]), kind.split("[", 1)[0]
    assert shape is not None
    special = np.array([0.0, -0.0, np.nan, np.inf, -1.5, 1e-45])
    content = np.resize(np.arange(-2, 4) if name != "float" else special, shape)
    content = content.astype({"float": "f4", "bool": "?"}.get(name, "i8"))
    [result] = run(built, {"x": content})
    assert bit_equal(result, content)
