"""Tensors that are not what they declare."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.hostile.corpus import refused
from tests.models import proto

ADD = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
BRANCH = """g (float[2] x, bool c) => (float[2] y) {
    y = If (c) <then_branch = p () => (float[2] u) <float[2] w = {1, 2}> { u = Add(x, w) },
                else_branch = q () => (float[2] v) { k = Constant<value = float[2] {3, 4}>() v = Add(x, k) }>
}"""


def _with(**fields: object) -> onnx.ModelProto:
    """The model with its weight's message replaced."""
    model = proto(ADD)
    model.graph.initializer[0].CopyFrom(TensorProto(name="w", **fields))
    return model


@refused
def negative_dimension(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[-2], raw_data=bytes(8))


@refused
def two_negative_dimensions(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[-1, -2], raw_data=bytes(8))


@refused
def product_of_dimensions_overflows(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[1 << 62, 1 << 62, 16], raw_data=bytes(8))


@refused
def product_of_dimensions_overflows_to_the_right_size(folder: Path) -> onnx.ModelProto:
    return _with(
        data_type=TensorProto.FLOAT, dims=[(1 << 63) + 2 - (1 << 63), 1 << 63 >> 1, 4], raw_data=bytes(8)
    )


@refused
def terabyte_without_data(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[1 << 38])


@refused
def many_dimensions(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[1] * 10_000 + [2], raw_data=bytes(8))


@refused
def raw_data_too_short(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(7))


@refused
def raw_data_too_long(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(12))


@refused
def raw_data_missing(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[2])


@refused
def large_raw_data_too_short(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[1 << 18], raw_data=bytes((1 << 20) - 4))


@refused
def typed_data_too_short(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[2], float_data=[1.0])


@refused
def typed_data_too_long(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.INT64, dims=[2], int64_data=[1, 2, 3])


@refused
def data_in_the_wrong_field(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[2], int64_data=[1, 2])


@refused
def data_in_two_fields(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[2], float_data=[1, 2], raw_data=bytes(8))


@refused
def unknown_element_type(folder: Path) -> onnx.ModelProto:
    return _with(data_type=99, dims=[2], raw_data=bytes(8))


@refused
def undefined_element_type(folder: Path) -> onnx.ModelProto:
    return _with(dims=[2], raw_data=bytes(8))


@refused
def negative_element_type(folder: Path) -> onnx.ModelProto:
    return _with(data_type=-1, dims=[2], raw_data=bytes(8))


@refused
def strings_as_raw_data(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.STRING, dims=[2], raw_data=b"ab")


@refused
def too_few_strings(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.STRING, dims=[3], string_data=[b"a", b"b"])


@refused
def packed_int4_too_short(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.INT4, dims=[5], raw_data=bytes(2))


@refused
def packed_int4_too_long(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.UINT4, dims=[4], int32_data=[1, 2, 3, 4])


@refused
def complex_numbers_by_half(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.COMPLEX64, dims=[2], float_data=[1, 2])


@refused
def data_for_an_empty_tensor(folder: Path) -> onnx.ModelProto:
    return _with(data_type=TensorProto.FLOAT, dims=[0, 5], raw_data=bytes(4))


@refused
def segmented(folder: Path) -> onnx.ModelProto:
    segment = TensorProto.Segment(begin=0, end=2)
    return _with(data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(8), segment=segment)


@refused
def short_initializer_of_a_branch(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    model.graph.node[0].attribute[0].g.initializer[0].dims[0] = 3
    return model


@refused
def short_constant_of_a_branch(folder: Path) -> onnx.ModelProto:
    model = proto(BRANCH)
    model.graph.node[0].attribute[1].g.node[0].attribute[0].t.dims[0] = 1 << 40
    return model


@refused
def short_sparse_constant(folder: Path) -> onnx.ModelProto:
    model = proto("g (float[4] x) => (float[4] y) { k = Constant() y = Add(x, k) }")
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(helper.make_tensor("v", TensorProto.FLOAT, [1], [5.0]))
    sparse.indices.CopyFrom(TensorProto(name="i", data_type=TensorProto.INT64, dims=[1]))
    model.graph.node[0].attribute.append(helper.make_attribute("sparse_value", sparse))
    return model
