"""SeparateVectors: every reader has a vector of its own, and what may not be copied stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.passes.deduplicate_initializers import DeduplicateInitializers
from onnxslim.passes.separate_vectors import SeparateVectors
from tests.models import proto

TEXT = """g (T[2] x) => (T[2] y) { a = Add(x, v) b = Mul(a, v) c = Sub(b, v) y = Add(c, c) }"""


def model(dtype: type, text: str = TEXT) -> ir.Model:
    names = {np.float32: "float", np.float16: "float16", np.int64: "int64"}
    made = proto(text.replace("T[", f"{names[dtype]}["))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2], dtype), "v"))
    found: ir.Model = ir.from_proto(made)
    return found


def test_each_reader_has_its_own_and_equal_ones_become_one_again() -> None:
    found = model(np.float32)
    assert SeparateVectors()(found).modified and len(found.graph.initializers) == 3
    assert not SeparateVectors()(found).modified
    assert DeduplicateInitializers()(found).modified and len(found.graph.initializers) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.int64])
def test_what_would_not_become_one_again_stays(dtype: type) -> None:
    found = model(dtype)
    assert not SeparateVectors()(found).modified and list(found.graph.initializers) == ["v"]


def test_a_node_that_reads_it_twice_reads_one() -> None:
    found = model(np.float32, "g (T[2] x) => (T[2] y) { a = Add(v, v) y = Add(x, a) }")
    assert not SeparateVectors()(found).modified
