"""A small network, and all that onnxruntime computes in it, judged by numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim.calibration.joined import joined
from onnxslim.calibration.store import Calibration
from tests.models import run

__all__ = ["CONV", "assert_matches", "images", "same_bits", "tapped"]

RNG = np.random.default_rng(3)

CONV = (
    """
net (float[n, 2, h, 5] x) => (float[n, m] y)
<float[3, 2, 3, 3] w = {"""
    + ", ".join(["0.1", "-0.2", "0.3"] * 18)
    + """}, float[3] b = {0.5, -1.0, 2.0}>
{
   scale = Constant <value = float {2.0}> ()
   doubled = Mul (scale, scale)
   c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
   r = Relu (c)
   size = Shape (r)
   s = Mul (r, doubled)
   y = Flatten (s)
}
"""
)


def images(count: int, height: int = 4) -> np.ndarray:
    return RNG.standard_normal((count, 2, height, 5)).astype(np.float32)


def tapped(parsed: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(parsed)
    outputs = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    return copy


def assert_matches(calibration: Calibration, parsed: onnx.ModelProto, feeds: list[dict[str, Any]]) -> None:
    """Against all values at once, from onnxruntime with its optimizations off."""
    names = [name for name in calibration.states if name not in feeds[0]]
    results = [run(tapped(parsed, names), feed, names) for feed in feeds]
    values = {name: [result[i] for result in results] for i, name in enumerate(names)}
    values.update({name: [feed[name] for feed in feeds] for name in feeds[0] if name in calibration})
    assert calibration.states.keys() == values.keys()
    for name, arrays in values.items():
        flat = np.concatenate([array.reshape(-1) for array in arrays])
        low, high = calibration.range(name)
        assert (low, high) == (pytest.approx(flat.min(), rel=1e-5), pytest.approx(flat.max(), rel=1e-5)), name
        assert calibration.histogram(name).total == flat.size, name
        moments = calibration.moments(name)
        if moments is None:
            continue
        axis = moments.axis
        rows = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in arrays]
        wide = np.concatenate(rows, axis=1).astype(np.float64)
        assert moments.count == wide.shape[1]
        np.testing.assert_allclose(moments.mean, wide.mean(1), rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(moments.variance, wide.var(1), rtol=1e-3, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(moments.mean_abs, np.abs(wide).mean(1), rtol=1e-4, atol=1e-5, err_msg=name)


def same_bits(a: Calibration, b: Calibration) -> bool:
    one, other = ({k: v.tobytes() for k, v in joined(c.states).items()} for c in (a, b))
    return one == other
