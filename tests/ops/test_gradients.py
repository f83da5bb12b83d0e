"""Every operator's gradient against central differences in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxslim.distillation.gradient import differentiate
from onnxslim.ops import conv_gradient
from onnxslim.ops.adjoint import flat
from onnxslim.ops.quantization_gradient import RULES
from onnxslim.ops.registry import all_specs
from tests.gradients import Case
from tests.models import model, run
from tests.ops.gradient_cases import CASES, between, f

Array = npt.NDArray[Any]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.op_type)
def test_gradients_are_those_of_central_differences(case: Case) -> None:
    case.check()


def test_every_rule_has_a_case() -> None:
    """Rules whose gradient is not that of the function (rounding) are judged by their definition."""
    tried = {(case.domain, case.op_type) for case in CASES}
    rules = {
        key for key, spec in all_specs().items() if spec.vjp not in (None, flat) or spec.expand is not None
    }
    rounding = {(domain, name) for domain in ("", "com.microsoft") for name in RULES}
    assert rules - tried == rounding


SIZES = st.integers(1, 3)


@st.composite
def windows(draw: st.DrawFn, *, dilated: bool = True) -> dict[str, Any]:
    """A window over two axes, as attributes, and a size that it fits into."""
    kernel = [draw(SIZES), draw(SIZES)]
    found: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [draw(SIZES), draw(SIZES)],
        "dilations": [draw(st.integers(1, 2)), draw(st.integers(1, 2))] if dilated else [1, 1],
    }
    auto = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    found["auto_pad"] = auto
    if auto == "NOTSET":
        found["pads"] = [draw(st.integers(0, size - 1)) for size in kernel * 2]
    return found


@settings(max_examples=40, deadline=None)
@given(
    window=windows(), groups=SIZES, read=st.integers(1, 2), made=st.integers(1, 2), seed=st.integers(0, 99)
)
def test_convolutions_of_any_window(
    window: dict[str, Any], groups: int, read: int, made: int, seed: int
) -> None:
    if window["auto_pad"].startswith("SAME"):
        window["dilations"] = [1, 1]  # runtimes do not agree on the padding of the others
    random = np.random.default_rng(seed)
    x = random.normal(size=(2, groups * read, 7, 6)).astype(np.float32)
    weight = random.normal(size=(groups * made, read, *window["kernel_shape"])).astype(np.float32)
    Case("Conv", [x, weight], {**window, "group": groups}, oracle=_convolved(window, groups)).check()


def _convolved(window: dict[str, Any], groups: int) -> Callable[..., Array]:
    """Conv as its definition reads."""
    kernel, strides, dilations = window["kernel_shape"], window["strides"], window["dilations"]

    def oracle(x: Array, weight: Array) -> Array:
        sizes, begins = [], []
        for axis in range(2):
            size, span = x.shape[axis + 2], dilations[axis] * (kernel[axis] - 1) + 1
            if window["auto_pad"].startswith("SAME"):
                count = -(-size // strides[axis])
                total = max((count - 1) * strides[axis] + span - size, 0)
                begin = total // 2 if window["auto_pad"] == "SAME_UPPER" else total - total // 2
            else:
                pads = window.get("pads", [0] * 4)
                begin, count = pads[axis], (size + pads[axis] + pads[axis + 2] - span) // strides[axis] + 1
            sizes.append(count)
            begins.append(begin)
        padded = np.pad(x, [(0, 0), (0, 0), (begins[0], 20), (begins[1], 20)])
        read, made = weight.shape[1], len(weight) // groups
        y = np.zeros((len(x), len(weight), *sizes))
        for p, q, k, m in np.ndindex(*sizes, *kernel):
            at = padded[:, :, p * strides[0] + k * dilations[0], q * strides[1] + m * dilations[1]]
            for g in range(groups):
                part = at[:, g * read : (g + 1) * read] @ weight[g * made : (g + 1) * made, :, k, m].T
                y[:, g * made : (g + 1) * made, p, q] += part
        return y

    return oracle


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 2, 0, 1], [4, 3, 5, 4]])
@pytest.mark.parametrize("dilations", [[1, 1], [2, 1]])
def test_large_convolutions_go_back_by_a_convolution(
    pads: list[int], dilations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a runtime is faster at; with more padding than the kernel reaches, too."""
    monkeypatch.setattr(conv_gradient, "_CACHED", 0)
    found = Case("Conv", [f(2, 3, 6, 7), f(2, 3, 3, 2)], {"pads": pads, "dilations": dilations}).check()
    assert all(node.op_type != "ConvTranspose" for node in found.model.graph)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("narrow", [0, 99])
def test_layouts_of_weight_gradients_agree(groups: int, narrow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few or many channels, positions behind or in front."""
    monkeypatch.setattr(conv_gradient, "_NARROW", narrow)
    for wide in (1, 99):
        monkeypatch.setattr(conv_gradient, "_WIDE", wide)
        inputs = [f(2, 4, 6, 7), f(4, 4 // groups, 3, 2)]
        Case("Conv", inputs, {"pads": [1, 0, 2, 1], "strides": [2, 1], "group": groups}).check()


@settings(max_examples=25, deadline=None)
@given(window=windows(dilated=False), counted=st.booleans())
def test_averages_of_any_window(window: dict[str, Any], counted: bool) -> None:
    del window["dilations"]
    if window["auto_pad"].startswith("SAME"):  # onnx's evaluator takes the one for the other
        window["auto_pad"], window["strides"] = "SAME_UPPER", [1, 1]
    Case("AveragePool", [f(1, 2, 7, 6)], {**window, "count_include_pad": int(counted)}).check()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["Add", "Mul", "Sub", "Div"]),
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, min_side=1),
)
def test_broadcasting_of_any_shapes(name: str, shapes: hnp.BroadcastableShapes) -> None:
    first, second = shapes.input_shapes
    Case(name, [np.asarray(f(*first)), np.asarray(between(0.5, 2, *second))]).check()


def test_rounding_passes_gradients_straight_and_its_scale_is_learned() -> None:
    """Against the definition of learned step sizes, for one scale and for one along an axis."""
    x = np.array([[-9.0, -0.3, 0.24], [0.6, 1.3, 40.0]], np.float32)
    for scale, zero in (
        (np.array(0.25, np.float32), np.array(3, np.int8)),
        (np.array([0.05, 0.25], np.float32), np.array([0, -2], np.int8)),
    ):
        shape = (2, 1) if scale.ndim else ()
        text = f"""g (float[2,3] x, float[2,3] r, float{"[2]" if scale.ndim else ""} s) => (float loss)
            <int8{"[2]" if scale.ndim else ""} z = {{{", ".join(map(str, zero.reshape(-1)))}}}>
            {{ q = QuantizeLinear<axis = 0>(x, s, z)  y = DequantizeLinear<axis = 0>(q, s, z)
               p = Mul(y, r)  loss = ReduceSum<keepdims = 0>(p) }}"""
        step = differentiate(model(text, opset=18), "loss", ["x", "s"])
        r = f(2, 3)
        loss, by_x, by_scale = run(step.model, {"x": x, "r": r, "s": scale})
        wide, offset = scale.reshape(shape), zero.reshape(shape).astype(np.float64)
        steps = x / wide + offset
        inside = (steps >= -128) & (steps <= 127)
        rounded = np.clip(np.rint(x / wide) + offset, -128, 127) - offset
        assert np.allclose(loss, (rounded * wide * r).sum(), atol=1e-4)
        assert np.allclose(by_x, np.where(inside, r, 0), atol=1e-6)
        learned = r * np.where(inside, rounded - x / wide, rounded)
        assert np.allclose(by_scale, learned.sum(1) if scale.ndim else learned.sum(), rtol=1e-4)
