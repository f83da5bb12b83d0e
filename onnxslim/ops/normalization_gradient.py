"""Gradients of normalisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp, like_shape, sum_to
from onnxslim.ops.attributes import float_of, int_of, ints_of
from onnxslim.ops.axis_maps import multiplied
from onnxslim.ops.terms import Term

__all__ = ["RULES", "local_response"]


def _normalised(x: Term, axes: Sequence[int], epsilon: float) -> tuple[Term, Term]:
    """``(x - mean) / deviation``, and one over the deviation."""
    centred = x - x.mean(axes)
    scale = 1.0 / ((centred * centred).mean(axes) + epsilon).then("Sqrt")
    return centred * scale, scale


def _through(normal: Term, scale: Term, dy: Term, axes: Sequence[int], *, centred: bool = True) -> Term:
    """The gradient of what was normalised: without what would change the mean and the deviation."""
    rest = dy - normal * (dy * normal).mean(axes)
    return (rest - dy.mean(axes) if centred else rest) * scale


def _batch(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """With stored statistics. Spec: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html"""
    if int_of(node, "training_mode", 0):
        raise Undifferentiable("it changes its statistics")
    x, scale, mean, variance = (tape.x(index) for index in (0, 1, 3, 4))
    dy, found, rank = tape.dy(), {}, len(tape.dims(tape.x()))
    behind, others = list(range(1, rank - 1)), [0, *range(2, rank)]
    inverse = 1.0 / (variance + float_of(node, "epsilon", 1e-5)).then("Sqrt")
    slope = scale * inverse
    if tape.wants(0):
        found[0] = dy * slope.unsqueeze(behind)
    if tape.wanted & {1, 4}:
        summed = (dy * (x - mean.unsqueeze(behind))).sum(others)
        found[1] = summed * inverse
        found[4] = summed * slope * inverse * inverse * -0.5
    if tape.wanted & {2, 3}:
        found[2] = dy.sum(others)
        found[3] = -(found[2] * slope)
    return found


def _layer(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Over the last axes. Spec: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html"""
    if any(tape.reads(index) for index in (1, 2)):
        raise Undifferentiable("its statistics are read")
    x, rank = tape.x(), len(tape.dims(tape.x()))
    axes = list(range(int_of(node, "axis", -1) % rank, rank))
    normal, deviation = _normalised(x, axes, float_of(node, "epsilon", 1e-5))
    return _over_last(tape, normal, deviation, axes, centred=True)


def _over_last(
    tape: Tape, normal: Term, deviation: Term, axes: Sequence[int], *, centred: bool
) -> Mapping[int, Term]:
    x, dy, found = tape.x(), tape.dy(), {}
    if tape.wants(0):
        found[0] = _through(normal, deviation, dy * tape.x(1), axes, centred=centred)
    if tape.wants(1):
        found[1] = sum_to(tape, dy * normal, tape.dims(x), tape.x(1))
    if tape.wants(2):
        found[2] = sum_to(tape, dy, tape.dims(x), tape.x(2))
    return found


def _rms(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Without a mean. Spec: https://onnx.ai/onnx/operators/onnx__RMSNormalization.html"""
    x, rank = tape.x(), len(tape.dims(tape.x()))
    axes = list(range(int_of(node, "axis", -1) % rank, rank))
    inverse = 1.0 / ((x * x).mean(axes) + float_of(node, "epsilon", 1e-5)).then("Sqrt")
    return _over_last(tape, x * inverse, inverse, axes, centred=False)


def _instance(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    return _grouped(node, tape, None)


def _group(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    return _grouped(node, tape, int_of(node, "num_groups", 1))


def _grouped(node: ir.Node, tape: Tape, groups: int | None) -> Mapping[int, Term]:
    """Statistics over a group's channels and positions; a scale and a bias for each channel."""
    x, dy, scale = tape.x(), tape.dy(), tape.x(1)
    dims, found = tape.dims(x), {}
    channels = dims[1]
    if not isinstance(channels, int):
        raise Undifferentiable("the number of channels is not known")
    if scale.dims != (channels,):
        raise Undifferentiable("its scales are not one for each channel")
    rows, behind = [0, groups or channels, -1], list(range(1, len(dims) - 1))
    normal, deviation = _normalised(x.reshape(rows), [2], float_of(node, "epsilon", 1e-5))
    if tape.wants(0):
        slope = (dy * scale.unsqueeze(behind)).reshape(rows)
        found[0] = like_shape(tape, _through(normal, deviation, slope, [2]), x)
    if tape.wanted & {1, 2}:
        own = dy.reshape([0, channels, -1])
        found[1] = (own * normal.reshape([0, channels, -1])).sum([0, 2])
        found[2] = own.sum([0, 2])
    return found


def _mean_variance(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    axes = [int(axis) for axis in ints_of(node, "axes") or (0, 2, 3)]
    normal, deviation = _normalised(tape.x(), axes, 0.0)
    return {0: _through(normal, deviation, tape.dy(), axes)}


def _lp(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Divided by its length. Spec: https://onnx.ai/onnx/operators/onnx__LpNormalization.html"""
    x, y, dy = tape.x(), tape.y(), tape.dy()
    axis, order = [int_of(node, "axis", -1)], int_of(node, "p", 2)
    inner = (dy * y).sum(axis, keep=True)
    if order == 2:
        return {0: (dy - y * inner) / (x * x).sum(axis, keep=True).then("Sqrt")}
    if order == 1:
        return {0: (dy - x.then("Sign") * inner) / x.then("Abs").sum(axis, keep=True)}
    raise Undifferentiable(f"a norm of order {order}")


def local_response(node: ir.Node, tape: Tape) -> Sequence[Term]:
    """LRN, for :attr:`OpSpec.expand`: divided by a power of the sum of squares of neighbouring channels.

    Spec: https://onnx.ai/onnx/operators/onnx__LRN.html
    """
    x, size = tape.x(), int_of(node, "size", 1)
    channels = np.arange(tape.sizes(x, 1)[0])
    distance = channels[:, None] - channels
    near = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    squares = multiplied(x * x, len(tape.dims(x)), 1, near)
    inner = squares * (float_of(node, "alpha", 1e-4) / size) + float_of(node, "bias", 1.0)
    return [x * inner.then("Pow", -float_of(node, "beta", 0.75))]


RULES: Mapping[str, Vjp] = MappingProxyType(
    {
        "BatchNormalization": _batch,
        "LayerNormalization": _layer,
        "RMSNormalization": _rms,
        "InstanceNormalization": _instance,
        "GroupNormalization": _group,
        "LpNormalization": _lp,
        "MeanVarianceNormalization": _mean_variance,
    }
)
