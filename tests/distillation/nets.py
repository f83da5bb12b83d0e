"""A small classifier, students of it, and inputs to learn on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from onnxslim._ir import ir
from onnxslim.model import edit
from tests.models import proto

__all__ = ["deep", "feeds", "narrow", "net", "noisy", "rows", "wide", "with_arrays"]

Array = npt.NDArray[Any]

_TEXT = """g (float[n,8] x) => (float[n,4] y)
{ h = MatMul(x, w1)  a = Add(h, b1)  r = Relu(a)  z = MatMul(r, w2)  l = Add(z, b2)  y = Softmax(l) }"""


def with_arrays(text: str, arrays: Mapping[str, Array], opset: int = 17) -> ir.Model:
    """A graph with these stored tensors."""
    parsed = proto(text, opset=opset)
    parsed.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()
    )
    found: ir.Model = ir.from_proto(parsed)
    return found


def net(hidden: int, seed: int = 0, scale: float = 0.8) -> ir.Model:
    """A classifier of 8 values with so many hidden ones."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (8, hidden), "b1": (hidden,), "w2": (hidden, 4), "b2": (4,)}
    return with_arrays(
        _TEXT, {name: rng.normal(0, scale, shape).astype("f") for name, shape in shapes.items()}
    )


def wide() -> ir.Model:
    """The teacher."""
    return net(24)


def narrow() -> ir.Model:
    """A student with fewer hidden values, and little in common with its teacher."""
    return net(12, seed=1)


def noisy(amount: float = 0.3) -> ir.Model:
    """A student of the teacher's shape, not far from it."""
    found, rng = wide(), np.random.default_rng(2)
    for value in found.graph.initializers.values():
        content = edit.constant_value(value)
        assert content is not None
        moved = content + amount * rng.standard_normal(content.shape)
        edit.replace_initializer(value, moved.astype("f"))
    return found


def rows(count: int, seed: int = 3) -> Array:
    """Inputs, one a row."""
    return np.random.default_rng(seed).normal(0, 1, (count, 8)).astype("f")


def feeds(count: int, seed: int = 3) -> list[dict[str, Array]]:
    """The same as feeds of one row."""
    return [{"x": row[None]} for row in rows(count, seed)]


_DEEP = """g (float[n,8] x) => (float[n,4] y)
{ h = MatMul(x, w0)  a = Add(h, b0)  r0 = Relu(a)
  h1 = MatMul(r0, w1)  a1 = Add(h1, b1)  r1 = Relu(a1)  h2 = MatMul(r1, w2)  r2 = Add(h2, r0)
  h3 = MatMul(r2, w3)  r3 = Relu(h3)  h4 = MatMul(r3, w4)  r4 = Add(h4, r2)
  z = MatMul(r4, w5)  l = Add(z, b5)  y = Softmax(l) }"""


def deep(noise: float = 0.0, inner: int = 24) -> ir.Model:
    """Two residual blocks between two products; a student of it where there is noise.

    Args:
        inner: width inside the first block.
    """
    shapes = {
        "w0": (8, 24),
        "b0": (24,),
        "w1": (24, inner),
        "b1": (inner,),
        "w2": (inner, 24),
        "w3": (24, 24),
        "w4": (24, 24),
        "w5": (24, 4),
        "b5": (4,),
    }
    rng, other = np.random.default_rng(0), np.random.default_rng(5)
    arrays = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    return with_arrays(
        _DEEP, {n: (a + noise * other.standard_normal(a.shape)).astype("f") for n, a in arrays.items()}
    )
