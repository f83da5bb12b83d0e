"""Gradients of resizing: along each axis a matrix, whose transposed takes the gradient back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp
from onnxslim.ops.attributes import float_of, int_of, ints_of, text_of
from onnxslim.ops.axis_maps import multiplied, scattered
from onnxslim.ops.spec import Array
from onnxslim.ops.terms import Term

__all__ = ["RULES"]


def _resize(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """https://onnx.ai/onnx/operators/onnx__Resize.html"""
    x, gradient = tape.x(), tape.dy()
    rank = len(tape.dims(x))
    if int_of(node, "antialias", 0):
        raise Undifferentiable("it is smoothed before")
    if text_of(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Undifferentiable("it cuts out a region")
    listed = ints_of(node, "axes")
    axes = list(range(rank)) if listed is None else [axis % rank for axis in listed]
    scales, sized = tape.content(2), tape.has(3)
    if scales is None and not sized:
        raise Undifferentiable("its scales are not constant")
    policy = text_of(node, "keep_aspect_ratio_policy", "stretch")
    for place, axis in enumerate(axes):
        before, after = tape.dims(x)[axis], tape.dims(tape.y())[axis]
        if before == after and before is not None and (sized or scales is None or scales[place] == 1):
            continue
        if not isinstance(before, int) or not isinstance(after, int):
            raise Undifferentiable("a size is not known; give the inputs a static shape")
        if sized and policy != "stretch":
            raise Undifferentiable("it keeps the aspect ratio")
        scale = after / before if sized or scales is None else float(scales[place])
        positions = _positions(
            text_of(node, "coordinate_transformation_mode", "half_pixel"), before, after, scale
        )
        if text_of(node, "mode", "nearest") == "nearest":
            picks = _nearest(text_of(node, "nearest_mode", "round_prefer_floor"), positions)
            gradient = scattered(gradient, rank, axis, np.clip(picks, 0, before - 1).tolist(), before)
        else:
            gradient = multiplied(gradient, rank, axis, _blended(node, positions, before))
    return {0: gradient} if tape.wants(0) else {}


def _positions(mode: str, before: int, after: int, scale: float) -> Array:
    """Where each position of the result lies in the source; single precision, as in the runtime."""
    place, ratio = np.arange(after, dtype=np.float32), np.float32(scale)
    half = np.float32(0.5)
    match mode:
        case "asymmetric":
            return np.asarray(place / ratio)
        case "align_corners":
            return np.asarray(place * np.float32(before - 1) / np.float32(max(after - 1, 1)))
        case "pytorch_half_pixel" if after == 1:
            return np.zeros(1, np.float32)
        case "half_pixel_symmetric":
            length = ratio * np.float32(before)
            offset = np.float32(before) / 2 * (1 - np.float32(after) / length)
            return np.asarray(offset + (place + half) / ratio - half)
        case "half_pixel" | "pytorch_half_pixel":
            return np.asarray((place + half) / ratio - half)
    raise Undifferentiable(f"coordinates of mode {mode}")


def _nearest(mode: str, positions: Array) -> Array:
    match mode:
        case "round_prefer_floor":
            found = np.ceil(positions - 0.5)
        case "round_prefer_ceil":
            found = np.floor(positions + 0.5)
        case "floor":
            found = np.floor(positions)
        case _:
            found = np.ceil(positions)
    return np.asarray(found.astype(np.int64))


def _blended(node: ir.Node, positions: Array, size: int) -> Array:
    """``[out, in]``: how much of each position is in one of the result."""
    cubic = text_of(node, "mode", "nearest") == "cubic"
    found = np.zeros((len(positions), size))
    reach = range(-1, 3) if cubic else range(2)
    for row, position in enumerate(positions.astype(np.float64)):
        position = position if cubic else min(max(position, 0.0), size - 1.0)
        base = math.floor(position)
        weights = [
            _cubic(position - base - k, float_of(node, "cubic_coeff_a", -0.75))
            if cubic
            else max(0.0, 1 - abs(position - base - k))
            for k in reach
        ]
        inside = [0 <= base + k < size for k in reach]
        if int_of(node, "exclude_outside", 0):
            weights = [w if there else 0.0 for w, there in zip(weights, inside, strict=True)]
            weights = [w / sum(weights) for w in weights]
        for k, weight in zip(reach, weights, strict=True):
            found[row, min(max(base + k, 0), size - 1)] += weight
    return found


def _cubic(distance: float, a: float) -> float:
    """Keys' kernel."""
    d = abs(distance)
    if d <= 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0


RULES: Mapping[str, Vjp] = MappingProxyType({"Resize": _resize})
