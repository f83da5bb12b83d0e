"""Gradients of what moves elements: they are moved back, and added up where they were copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp, like_shape, sum_to
from onnxslim.ops.attributes import int_of, ints_of, text_of
from onnxslim.ops.axis_maps import scattered
from onnxslim.ops.spec import Array
from onnxslim.ops.terms import Term, integers, joined

__all__ = ["RULES", "constants", "indexed"]


def _same(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    return {0: tape.dy()}


def _reshaped(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    return {0: like_shape(tape, tape.dy(), tape.x())} if tape.wants(0) else {}


def _transpose(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    perm = ints_of(node, "perm") or range(len(tape.dims(tape.x())))[::-1]
    return {0: tape.dy().transpose(int(axis) for axis in np.argsort(perm))}


def _expand(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    return {0: sum_to(tape, tape.dy(), tape.dims(tape.y()), tape.x())} if tape.wants(0) else {}


def _tile(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Copies lie one after the other: they are an axis of their own in front of each."""
    if not tape.wants(0):
        return {}
    x, dy, repeats = tape.x(), tape.dy(), tape.x(1)
    rank = len(tape.dims(x))
    pairs = joined([repeats.unsqueeze([1]), x.shape().unsqueeze([1])], 1)
    return {0: dy.reshape(pairs.reshape([-1])).sum(range(0, 2 * rank, 2))}


def _concat(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    dims = [tape.x(index).dims for index in range(len(node.inputs))]
    axis = int_of(node, "axis", 0)
    sizes = [None if d is None else d[axis] for d in dims]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        parts = tape.dy().split(known, axis)
        return dict(enumerate(parts))
    own = [tape.x(index).shape().slice([axis], [_end(axis)], [0]) for index in range(len(sizes))]
    inputs = [tape.dy().value, joined(own, 0).value]
    outputs = tape.emitter.emit("Split", inputs, {"axis": axis}, len(sizes))
    return {index: Term(tape.emitter, value, tape.dy().dtype) for index, value in enumerate(outputs)}


def _end(axis: int) -> int:
    return axis + 1 if axis != -1 else np.iinfo(np.int64).max


def _split(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    if not tape.wants(0):
        return {}
    return {0: joined([tape.dy(index) for index in range(len(node.outputs))], int_of(node, "axis", 0))}


def constants(node: ir.Node, tape: Tape) -> list[Array | None]:
    """The inputs behind the first one, which have to be constant.

    Raises:
        Undifferentiable: one is not.
    """
    found: list[Array | None] = [None]
    for index in range(1, len(node.inputs)):
        content = tape.content(index)
        if content is None and tape.has(index):
            raise Undifferentiable(f"input {index} is not constant")
        found.append(content)
    return found


def _slice(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """What was left out gets zeros."""
    from onnxslim.ops.movement import slices

    if not tape.wants(0):
        return {}
    dims, inputs = tape.dims(tape.x()), constants(node, tape)
    sizes = [d if isinstance(d, int) else 2**31 - 1 for d in dims]
    try:
        kept = slices(node, inputs, sizes)
    except ValueError as error:
        raise Undifferentiable(str(error)) from error
    gradient = tape.dy()
    for axis, (cut, dim) in enumerate(zip(kept, dims, strict=True)):
        if cut in (slice(None), slice(0, sizes[axis], 1)):
            continue
        if not isinstance(dim, int):
            raise Undifferentiable(
                "the size of an axis that is cut is not known; give the inputs a static shape"
            )
        gradient = scattered(gradient, len(dims), axis, range(dim)[cut], dim)
    return {0: gradient}


def _gather(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Rows that were picked several times get the sum."""
    if not tape.wants(0):
        return {}
    x, dy, indices = tape.x(), tape.dy(), tape.x(1)
    dims, picks = tape.dims(x), tape.content(1)
    axis = int_of(node, "axis", 0) % len(dims)
    size, depth = dims[axis], len(tape.dims(indices))
    if picks is not None and isinstance(size, int) and picks.ndim < 2:
        rows = dy.unsqueeze([axis]) if picks.ndim == 0 else dy
        listed = [int(pick) % size for pick in picks.reshape(-1)]
        if max(np.bincount(listed), default=0) <= 1:
            return {0: scattered(rows, len(dims), axis, listed, size)}
    front = [*range(axis, axis + depth), *range(axis), *range(axis + depth, len(dims) + depth - 1)]
    order = [axis, *range(axis), *range(axis + 1, len(dims))]
    zeros = x.like(0.0).expand(x.shape().then("Gather", integers(x, order), axis=0))
    places = indices.cast(ir.DataType.INT64).unsqueeze([-1])  # ScatterND takes no others
    added = indexed(zeros, places, dy.transpose(front))
    return {0: added.transpose(int(place) for place in np.argsort(order))}


def indexed(zeros: Term, indices: Term, updates: Term) -> Term:
    """Slices added to where lists of indices say."""
    return zeros.then("ScatterND", indices, updates, reduction="add")


def _zeros(x: Term) -> Term:
    return x.like(0.0).expand(x.shape())


def _gather_elements(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    x = tape.x()
    where = int_of(node, "axis", 0)
    found = _zeros(x).then("ScatterElements", tape.x(1), tape.dy(), axis=where, reduction="add")
    return {0: found} if tape.wants(0) else {}


def _gather_nd(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    if int_of(node, "batch_dims", 0):
        raise Undifferentiable("indices of a batch")
    return {0: indexed(_zeros(tape.x()), tape.x(1), tape.dy())} if tape.wants(0) else {}


def _scatter_elements(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """What is written comes from the updates, the rest from the data."""
    reduction, axis = text_of(node, "reduction", "none"), int_of(node, "axis", 0)
    if reduction not in ("none", "add"):
        raise Undifferentiable(f"reduction {reduction}")
    dy, indices, found = tape.dy(), tape.x(1), {}
    if tape.wants(0):
        updates = tape.x(2)
        found[0] = (
            dy if reduction == "add" else dy.then("ScatterElements", indices, _zeros(updates), axis=axis)
        )
    if tape.wants(2):
        found[2] = dy.then("GatherElements", indices, axis=axis)
    return found


def _scatter_nd(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    reduction = text_of(node, "reduction", "none")
    if reduction not in ("none", "add"):
        raise Undifferentiable(f"reduction {reduction}")
    dy, indices, found = tape.dy(), tape.x(1), {}
    if tape.wants(0):
        found[0] = dy if reduction == "add" else dy.then("ScatterND", indices, _zeros(tape.x(2)))
    if tape.wants(2):
        found[2] = dy.then("GatherND", indices)
    return found


def _pad(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """Positions of the result, and what they are copies of. Spec: https://onnx.ai/onnx/operators/onnx__Pad.html"""
    dims, pads = tape.dims(tape.x()), tape.content(1)
    if pads is None:
        raise Undifferentiable("its pads are not constant")
    rank, listed = len(dims), tape.content(3)
    axes = [int(a) % rank for a in (range(rank) if listed is None else listed.ravel())]
    mode = text_of(node, "mode", "constant")
    gradient, found = tape.dy(), {}
    for place, axis in enumerate(axes):
        begin, end = int(pads[place]), int(pads[place + len(axes)])
        if begin == end == 0:
            continue
        size = dims[axis]
        if not isinstance(size, int):
            raise Undifferentiable("the size of a padded axis is not known; give the inputs a static shape")
        gradient = scattered(gradient, rank, axis, _copies(mode, begin, size, end), size)
    if tape.wants(0):
        found[0] = gradient
    if tape.wants(2):
        found[2] = like_shape(tape, tape.dy().sum(range(rank)) - gradient.sum(range(rank)), tape.x(2))
    return found


def _copies(mode: str, begin: int, size: int, end: int) -> list[int]:
    positions = range(-begin, size + end)
    if mode == "constant":
        return [p if 0 <= p < size else -1 for p in positions]
    if mode == "edge":
        return [min(max(p, 0), size - 1) for p in positions]
    if mode == "wrap":
        return [p % size for p in positions]
    if mode == "reflect" and size > 1:
        period = 2 * (size - 1)
        return [min(p % period, period - p % period) for p in positions]
    raise Undifferentiable(f"padding of mode {mode}")


def _top_k(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    if not (tape.wants(0) and tape.reads()):
        return {}
    indices = tape.y(1)
    if not indices.value.name:
        raise Undifferentiable("its indices have no name")
    axis = int_of(node, "axis", -1)
    return {0: _zeros(tape.x()).then("ScatterElements", indices, tape.dy(), axis=axis)}


def _depth_to_space(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    block = int_of(node, "blocksize", 1)
    dy = tape.dy().then("SpaceToDepth", blocksize=block)
    if text_of(node, "mode", "DCR") == "DCR":
        return {0: dy}
    channels, height, width = tape.sizes(tape.x(), 1)
    parts = dy.reshape([0, block * block, channels // block**2, height, width]).transpose([0, 2, 1, 3, 4])
    return {0: parts.reshape([0, channels, height, width])}


def _space_to_depth(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    return {0: tape.dy().then("DepthToSpace", blocksize=int_of(node, "blocksize", 1))}


def _trilu(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    others: Sequence[Term] = [tape.x(1)] if tape.has(1) else []
    return {0: tape.dy().then("Trilu", *others, upper=int_of(node, "upper", 1))}


RULES: Mapping[str, Vjp] = MappingProxyType(
    {
        "Identity": _same,
        "Reshape": _reshaped,
        "Flatten": _reshaped,
        "Squeeze": _reshaped,
        "Unsqueeze": _reshaped,
        "Transpose": _transpose,
        "Expand": _expand,
        "Tile": _tile,
        "Concat": _concat,
        "Split": _split,
        "Slice": _slice,
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "ScatterElements": _scatter_elements,
        "ScatterND": _scatter_nd,
        "Pad": _pad,
        "TopK": _top_k,
        "DepthToSpace": _depth_to_space,
        "SpaceToDepth": _space_to_depth,
        "Trilu": _trilu,
    }
)
