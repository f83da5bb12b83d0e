"""Digests are equal exactly when dtype, shape and bits are."""

from __future__ import annotations

import itertools
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.model.edit import tensor_from
from onnxslim.model.hashing import CHUNK, array_of, content_chunks, number_chunks, tensor_digest
from onnxslim.model.io import load, save
from tests.models import model

DIFFERENT = [
    np.array([0.0, 1.0], np.float32),
    np.array([-0.0, 1.0], np.float32),
    np.array([[0.0, 1.0]], np.float32),
    np.array([0, 1], np.int32),
    np.array([0, 1], np.uint32),
    np.array([0.0, np.nan], np.float32),
    np.array([0, 0x7FC00001], np.uint32).view(np.float32),  # another NaN
    np.array([0, 1], ml_dtypes.int4),
    np.array([0, 1], ml_dtypes.uint4),
    np.array([0, 1], np.int8),
    np.array([b"ab", b""], object),
    np.array([b"a", b"b"], object),
    np.array([b"a\0b", b""], object),
    np.zeros(0, np.float32),
    np.zeros((0, 2), np.float32),
]


def test_differences_are_seen() -> None:
    digests = [tensor_digest(tensor_from(array, "t")) for array in DIFFERENT]
    for (a, x), (b, y) in itertools.combinations(zip(DIFFERENT, digests, strict=True), 2):
        assert x != y, f"{a!r} and {b!r}"


def test_name_layout_and_form_do_not_matter() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    plain = tensor_digest(tensor_from(array, "a"))
    fortran = ir.Tensor(np.asfortranarray(array), name="b")
    typed = ir.serde.deserialize_tensor(
        ir.serde.onnx.TensorProto(name="d", data_type=1, dims=[3, 4], float_data=array.ravel())
    )
    assert {tensor_digest(tensor) for tensor in (fortran, typed)} == {plain}


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1, 3 * CHUNK - 1])
def test_external_data_has_the_digest_of_its_content(size: int, tmp_path: Path) -> None:
    array = np.random.default_rng(size).integers(0, 256, max(size, 2048), dtype=np.uint8)
    source = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    source.graph.register_initializer(ir.Value(name="w", const_value=tensor_from(array, "w")))
    save(source, tmp_path / "m.onnx", external_data=True)
    tensor = load(tmp_path / "m.onnx").graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor_digest(tensor) == tensor_digest(tensor_from(array, "w"))
    assert tensor.raw is None, "the file was mapped"
    assert b"".join(content_chunks(tensor)) == array.tobytes()


@pytest.mark.parametrize("external", [False, True])
def test_numbers_come_in_chunks_and_leave_nothing_mapped(external: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-9, 9, (1031, 1033), dtype=np.int32)
    source = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    source.graph.register_initializer(ir.Value(name="w", const_value=tensor_from(array, "w")))
    save(source, tmp_path / "m.onnx", external_data=external)
    tensor = load(tmp_path / "m.onnx").graph.initializers["w"].const_value
    assert tensor is not None
    chunks = list(number_chunks(tensor, 100_003))
    assert {len(chunk) for chunk in chunks[:-1]} == {100_003} and 0 < len(chunks[-1]) <= 100_003
    np.testing.assert_array_equal(np.concatenate(chunks), array.reshape(-1))
    np.testing.assert_array_equal(array_of(tensor), array)
    assert not isinstance(tensor, ir.ExternalTensor) or tensor.raw is None
