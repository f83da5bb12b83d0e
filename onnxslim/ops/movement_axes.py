"""What operators that only move elements do to axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.attributes import has, int_of, ints_of, opset_of
from onnxslim.ops.coupling import Axes, Layout, broadcast

__all__ = [
    "concat",
    "expand",
    "flatten",
    "gather",
    "pad",
    "reshape",
    "slice_",
    "split",
    "squeeze",
    "tile",
    "transpose",
    "unsqueeze",
]


def reshape(node: ir.Node, axes: Axes) -> None:
    """Input and output are one product of axes; the target lists the sizes of the output."""
    data, target = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    output = node.outputs[0]
    assert data is not None
    if 0 in axes.dims(data):
        return
    sources = [axes.of(data, axis) for axis in range(len(axes.dims(data)))]
    results = [axes.of(output, axis) for axis in range(len(axes.dims(output)))]
    content = None if target is None else axes.elements(1)
    for index, layout in enumerate(results):
        size = None if content is None else content[index]
        if target is None:  # an attribute, before operator set 5
            axes.pin(layout, "its shape is an attribute")
        elif size == 0 and not int_of(node, "allowzero", 0):
            axes.agree(sources[index], layout)
            if layout.size is None:
                axes.equal(sources[index], layout)
        elif size != -1:
            axes.holds(1, index, layout)
        if size is not None and not isinstance(size, int) and layout.size is None:
            axes.equal(size, layout)  # an open axis of the input, known again by its size
    axes.equal(axes.times(sources), axes.times(results))


def flatten(node: ir.Node, axes: Axes) -> None:
    """Two products of axes."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    rank = len(axes.dims(data))
    axis = int_of(node, "axis", 1)
    layouts = [axes.of(data, index) for index in range(rank)]
    middle = axis + rank if axis < 0 else axis
    axes.equal(axes.times(layouts[:middle]), axes.of(output, 0))
    axes.equal(axes.times(layouts[middle:]), axes.of(output, 1))


def transpose(node: ir.Node, axes: Axes) -> None:
    """Axes in another order."""
    data = node.inputs[0]
    assert data is not None
    rank = len(axes.dims(data))
    perm = ints_of(node, "perm") or tuple(reversed(range(rank)))
    for place, axis in enumerate(perm):
        axes.equal(axes.of(data, axis), axes.of(node.outputs[0], place))


def squeeze(node: ir.Node, axes: Axes) -> None:
    """Axes of size 1 go."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    dims = axes.dims(data)
    gone = _listed(node, axes, len(dims))
    if gone is None:
        if has(node, "axes") or _input(node, 1) is not None or not all(isinstance(d, int) for d in dims):
            return
        gone = {axis for axis, size in enumerate(dims) if size == 1}
    for axis in gone:
        axes.of(data, axis)
    kept = [axis for axis in range(len(dims)) if axis not in gone]
    for place, axis in enumerate(kept):
        axes.equal(axes.of(data, axis), axes.of(output, place))


def unsqueeze(node: ir.Node, axes: Axes) -> None:
    """Axes of size 1 come in."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    rank = len(axes.dims(output))
    new = _listed(node, axes, rank)
    if new is None:
        return
    for axis in new:
        axes.of(output, axis)
    kept = [axis for axis in range(rank) if axis not in new]
    for axis, place in enumerate(kept):
        axes.equal(axes.of(data, axis), axes.of(output, place))


def concat(node: ir.Node, axes: Axes) -> None:
    """One after the other along one axis, alike along the others."""
    output = node.outputs[0]
    rank = len(axes.dims(output))
    along = int_of(node, "axis", 1) % rank
    values = [value for value in node.inputs if value is not None]
    for axis in range(rank):
        if axis != along:
            for value in values:
                axes.equal(axes.of(value, axis), axes.of(output, axis))
    if all(isinstance(axes.dims(value)[along], int) for value in (*values, output)):
        axes.equal(axes.join([axes.of(value, along) for value in values]), axes.of(output, along))


def split(node: ir.Node, axes: Axes) -> None:
    """Cut along one axis; where the parts are said to be equal, their sizes are written down."""
    data = node.inputs[0]
    assert data is not None
    dims = axes.dims(data)
    along = int_of(node, "axis", 0) % len(dims)
    for output in node.outputs:
        for axis in range(len(dims)):
            if axis != along:
                axes.equal(axes.of(data, axis), axes.of(output, axis))
    sizes = [axes.dims(output)[along] if output.name else None for output in node.outputs]
    total, place, parts = dims[along], 0, []
    if not isinstance(total, int) or not all(isinstance(size, int) for size in sizes):
        return
    whole = axes.of(data, along)
    for output, size in zip(node.outputs, sizes, strict=True):
        part = axes.cut(whole, place, place + int(size or 0))
        axes.equal(part, axes.of(output, along))
        parts.append(axes.of(output, along))
        place += int(size or 0)
    target = _input(node, 1)
    if target is not None:
        for index, part in enumerate(parts):
            axes.holds(1, index, part)
    elif (opset_of(node) or 1) < 13:
        axes.attribute("split", parts)
    else:
        axes.lengths(1, parts)


def slice_(node: ir.Node, axes: Axes) -> None:
    """A range of each axis: indices next to each other, or every n-th."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    dims = axes.dims(data)
    bounds = _bounds(node, axes, len(dims))
    if bounds is None:
        return
    for axis, size in enumerate(dims):
        if axis not in bounds:
            axes.equal(axes.of(data, axis), axes.of(output, axis))
            continue
        start, stop, step, element = bounds[axis]
        if isinstance(size, int) and size > 0 and step:  # a step of 0 stands for a computed bound
            _cut(node, axes, axis, (start, stop, step), element)


def _cut(node: ir.Node, axes: Axes, axis: int, bounds: tuple[int, int, int], element: int) -> None:
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    size = axes.dims(data)[axis]
    assert isinstance(size, int)
    start, stop, step = bounds
    first, last, step = slice(start, stop, step).indices(size)
    whole = axes.of(data, axis)
    if step == 1:
        axes.equal(axes.cut(whole, first, last), axes.of(output, axis))
        for index, bound, clamped in ((1, start, first), (2, stop, last)):
            _hold_bound(node, axes, index, element, bound, clamped, whole)
    elif step > 1 and size % step == 0 and 0 <= start < step and stop >= size:
        outer = axes.free(size // step)
        axes.equal(whole, axes.times([outer, axes.fixed(step, "every n-th is taken")]))
        axes.equal(outer, axes.of(output, axis))


def _hold_bound(
    node: ir.Node, axes: Axes, index: int, element: int, bound: int, clamped: int, whole: Layout
) -> None:
    """A bound inside of the axis moves with what is removed in front of it (or behind, if negative)."""
    size = whole.size or 0
    if bound > size or bound <= -size or bound == 0:
        return  # the border, whatever its size
    part = axes.cut(whole, clamped, size) if bound < 0 else axes.cut(whole, 0, clamped)
    value = _input(node, index)
    if value is None:
        axes.pin(part, "it is cut by an attribute")
    else:
        axes.holds(index, element, part, sign=-1 if bound < 0 else 1)


def _bounds(node: ir.Node, axes: Axes, rank: int) -> dict[int, tuple[int, int, int, int]] | None:
    """Axis -> start, stop, step and place in the lists; None where they are not all known."""
    if has(node, "starts"):
        starts, ends = ints_of(node, "starts") or (), ints_of(node, "ends") or ()
        along: Sequence[int] | None = ints_of(node, "axes")
        steps: Sequence[int] | None = None
    else:
        lists = [_integers(node, axes, index) for index in range(1, 5)]
        if any(found is None and _input(node, i + 1) is not None for i, found in enumerate(lists)):
            return _some_bounds(node, axes, lists, rank)
        starts, ends = lists[0] or (), lists[1] or ()
        along, steps = lists[2], lists[3]
    along = range(len(starts)) if along is None else along
    steps = [1] * len(starts) if steps is None else steps
    found = {axis % rank: (starts[i], ends[i], steps[i], i) for i, axis in enumerate(along)}
    return found if len(found) == len(starts) else None


def _some_bounds(
    node: ir.Node, axes: Axes, lists: list[Sequence[int] | None], rank: int
) -> dict[int, tuple[int, int, int, int]] | None:
    """Bounds that are computed: the axes that they concern stay whole, if it is known which these are."""
    along = lists[2]
    if along is None:
        if _input(node, 3) is not None:
            return None
        starts = node.inputs[1]
        dims = axes.dims(starts)
        if len(dims) != 1 or not isinstance(dims[0], int):
            return None
        along = range(dims[0])
    for axis in along:
        data, output = node.inputs[0], node.outputs[0]
        assert data is not None
        axes.pin(axes.of(data, axis), "it is cut at what is known at run time only")
        axes.pin(axes.of(output, axis), "it is cut at what is known at run time only")
    return {axis % rank: (0, 0, 0, 0) for axis in along}


def gather(node: ir.Node, axes: Axes) -> None:
    """Indices in place of one axis."""
    data, indices, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None and indices is not None
    rank, extra = len(axes.dims(data)), len(axes.dims(indices))
    along = int_of(node, "axis", 0) % rank
    stored = axes.constant(data) is not None
    for axis in range(rank):
        if axis == along:
            continue
        place = axis if axis < along else axis - 1 + extra
        table = stored and along == 0 and rank == 2
        source = axes.channels(data, axis) if table else axes.of(data, axis)
        axes.equal(source, axes.of(output, place))
    if axes.is_weight(indices) and extra < 2:
        picked = axes.picks(1, axes.of(data, along))
        if extra:
            axes.equal(picked, axes.of(indices, 0))
            axes.equal(picked, axes.of(output, along))
        return
    for axis in range(extra):
        axes.equal(axes.of(indices, axis), axes.of(output, along + axis))


def expand(node: ir.Node, axes: Axes) -> None:
    """Axes of size 1 become longer; what they are filled with is the same everywhere."""
    data, target, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None and target is not None
    broadcast([data], output, axes)
    content, dims = axes.elements(1), axes.dims(target)
    rank = len(axes.dims(output))
    count = dims[0] if len(dims) == 1 else None
    for axis in range(rank):
        layout = axes.of(output, axis)
        if not isinstance(count, int):
            axes.pin(layout, "its shape is known at run time only")
            continue
        place = axis - (rank - count)
        if place >= 0 and (content is None or content[place] != 1):
            axes.holds(1, place, layout)


def tile(node: ir.Node, axes: Axes) -> None:
    """Copies one after the other."""
    data, output = node.inputs[0], node.outputs[0]
    repeats = _integers(node, axes, 1)
    assert data is not None
    for axis, size in enumerate(axes.dims(data)):
        if repeats is None or not isinstance(size, int) or len(node.inputs) > 2:
            continue
        copies = axes.fixed(repeats[axis], "copies of it are told apart")
        axes.equal(axes.times((copies, axes.of(data, axis))), axes.of(output, axis))


def pad(node: ir.Node, axes: Axes) -> None:
    """New indices at both ends; where they are filled with what is there already, the axis is read along."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    rank = len(axes.dims(data))
    amounts = ints_of(node, "pads") or ints_of(node, "paddings") or _integers(node, axes, 1)
    listed = _listed(node, axes, rank, 3) if _input(node, 3) is not None else set(range(rank))
    if amounts is None or listed is None or len(amounts) != 2 * len(listed):
        return
    order = list(range(rank)) if _input(node, 3) is None else _integers(node, axes, 3) or ()
    places = {axis % rank: place for place, axis in enumerate(order)}
    constant = node.attributes.get_string("mode", "constant") == "constant"
    for axis, size in enumerate(axes.dims(data)):
        place = places.get(axis)
        before, after = (0, 0) if place is None else (amounts[place], amounts[place + len(places)])
        if before == after == 0:
            axes.equal(axes.of(data, axis), axes.of(output, axis))
        elif constant and before >= 0 and after >= 0 and isinstance(size, int):
            ends = [axes.fixed(count, "it is padding") for count in (before, after)]
            whole = axes.join((ends[0], axes.of(data, axis), ends[1]))
            axes.equal(whole, axes.of(output, axis))


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _integers(node: ir.Node, axes: Axes, index: int) -> Sequence[int] | None:
    """A constant input, as a list."""
    value = _input(node, index)
    content = None if value is None else axes.constant(value)
    return None if content is None else [int(item) for item in np.asarray(content).reshape(-1)]


def _listed(node: ir.Node, axes: Axes, rank: int, index: int = 1) -> set[int] | None:
    """``axes`` of the node, attribute or input."""
    listed = ints_of(node, "axes") if has(node, "axes") else _integers(node, axes, index)
    return None if listed is None else {axis % rank for axis in listed} if rank else set()
