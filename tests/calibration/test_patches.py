"""Patches against a loop over positions and taps, and against onnxruntime's own convolution."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.parser
import onnxruntime
import pytest

from onnxslim.calibration.patches import Window

RNG = np.random.default_rng(0)

CASES = {
    "plain": ((2, 3, 5, 6), (3, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
    "strides": ((1, 2, 7, 8), (3, 3), (2, 3), (0, 0, 0, 0), (1, 1)),
    "one-sided pads": ((2, 1, 4, 4), (3, 2), (1, 2), (2, 0, 1, 3), (1, 1)),
    "dilations": ((1, 2, 9, 7), (3, 2), (1, 1), (1, 0, 0, 1), (2, 3)),
    "all of it, three axes": ((1, 2, 5, 4, 6), (2, 3, 2), (2, 1, 3), (1, 0, 2, 0, 1, 1), (2, 1, 2)),
    "one axis": ((3, 2, 9), (4,), (2,), (3, 0), (1,)),
    "pointwise": ((2, 5, 3, 3), (1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    "a kernel that does not fit": ((1, 2, 2, 2), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
}


def rows_of(values, window):
    """``[rows, columns]``, columns in the order of a weight's elements."""
    view = window.over(values)
    return view.reshape(-1, values.shape[1] * int(np.prod(window.kernel)))


def naive(values, kernel, strides, pads, dilations):
    """Element by element."""
    rank = len(kernel)
    spatial = values.shape[2:]
    counts = [
        max(0, (n + pads[i] + pads[rank + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1)
        for i, n in enumerate(spatial)
    ]
    rows = []
    for sample in values:
        for position in itertools.product(*map(range, counts)):
            row = []
            for channel in sample:
                for tap in itertools.product(*map(range, kernel)):
                    at = tuple(
                        position[i] * strides[i] + tap[i] * dilations[i] - pads[i] for i in range(rank)
                    )
                    inside = all(0 <= a < n for a, n in zip(at, spatial, strict=True))
                    row.append(channel[at] if inside else 0.0)
            rows.append(row)
    return np.array(rows, values.dtype).reshape(len(rows), values.shape[1] * int(np.prod(kernel)))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_patches_are_those_of_a_loop(case) -> None:
    shape, *geometry = case
    values = RNG.standard_normal(shape).astype(np.float32)
    found = rows_of(values, Window(*geometry))
    expected = naive(values, *geometry)
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("same", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_rows_times_filters_are_the_convolution_of_the_runtime(same: str, strides: tuple[int, int]) -> None:
    values, groups = RNG.standard_normal((2, 4, 7, 6)).astype(np.float32), 2
    filters = RNG.standard_normal((6, 2, 2, 3)).astype(np.float32)
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 4, h, w] x, float[6, 2, 2, 3] f) => (float[n, 6, u, v] y) {{
            y = Conv <auto_pad = "{same}", group = 2, strides = [{strides[0]}, {strides[1]}]> (x, f)
        }}""")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": values, "f": filters})
    rows = rows_of(values, Window((2, 3), strides, groups=groups, same=same))
    rows = rows.reshape(len(rows), groups, -1)
    found = np.einsum("rgc,gfc->rgf", rows, filters.reshape(groups, 3, -1)).reshape(-1, 6)
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1).reshape(-1, 6), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    values = np.zeros((1, 2, 5, 5), np.float32)
    with pytest.raises(ValueError, match="does not fit"):
        Window((3,)).over(values)
    with pytest.raises(ValueError, match="does not fit"):
        Window((3, 3), pads=(1, 1)).over(values)
