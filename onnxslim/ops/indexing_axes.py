"""How operators that pick by index tie axes together: what they do not pick along passes through."""

from __future__ import annotations

from collections.abc import Iterable

from onnxslim._ir import ir
from onnxslim.ops.attributes import int_of
from onnxslim.ops.coupling import Axes

__all__ = ["beside_axis", "gather_nd", "grid_sample", "reverse_sequence", "roi_align", "scatter_nd"]


def gather_nd(node: ir.Node, axes: Axes) -> None:
    """Each row of indices stands for the axes that it picks along; those behind them stay."""
    data, indices = _two(node)
    output, batch = node.outputs[0], int_of(node, "batch_dims", 0)
    listed = axes.dims(indices)
    if not listed or not isinstance(listed[-1], int):
        return
    rows, behind = len(listed) - 1, batch + listed[-1]
    _alike(axes, range(rows), (indices, output))
    _alike(axes, range(batch), (data, output))
    for axis in range(behind, len(axes.dims(data))):
        axes.equal(axes.of(data, axis), axes.of(output, rows + axis - behind))


def scatter_nd(node: ir.Node, axes: Axes) -> None:
    """The same the other way round: what is written has the axes behind those that the indices pick along."""
    data, indices = _two(node)
    output, updates = node.outputs[0], node.inputs[2]
    listed = axes.dims(indices)
    if updates is None or not listed or not isinstance(listed[-1], int):
        return
    rows, behind = len(listed) - 1, listed[-1]
    _alike(axes, range(rows), (indices, updates))
    for axis in range(behind, len(axes.dims(data))):
        axes.equal(axes.of(data, axis), axes.of(output, axis))
        axes.equal(axes.of(data, axis), axes.of(updates, rows + axis - behind))


def beside_axis(node: ir.Node, axes: Axes) -> None:
    """Something is chosen along one axis, the last unless said; the other axes stay."""
    data = node.inputs[0]
    assert data is not None
    rank = len(axes.dims(data))
    if any(len(axes.dims(output)) != rank for output in node.outputs if output.name):
        return  # among all elements in a row
    along = int_of(node, "axis", -1) % rank
    _alike(axes, (axis for axis in range(rank) if axis != along), (data, *node.outputs))


def reverse_sequence(node: ir.Node, axes: Axes) -> None:
    """Steps are read backwards, in each sequence as many as it has."""
    data, lengths = _two(node)
    batch, time = int_of(node, "batch_axis", 1), int_of(node, "time_axis", 0)
    _alike(axes, (axis for axis in range(len(axes.dims(data))) if axis != time), (data, node.outputs[0]))
    axes.equal(axes.of(data, batch), axes.of(lengths, 0))


def grid_sample(node: ir.Node, axes: Axes) -> None:
    """Every channel is read at the positions of a grid."""
    data, grid = _two(node)
    output = node.outputs[0]
    _alike(axes, (0, 1), (data, output))
    axes.equal(axes.of(grid, 0), axes.of(output, 0))
    for axis in range(2, len(axes.dims(output))):
        axes.equal(axes.of(grid, axis - 1), axes.of(output, axis))


def roi_align(node: ir.Node, axes: Axes) -> None:
    """Every channel is read in regions, each of one sample."""
    data, regions = _two(node)
    output = node.outputs[0]
    _alike(axes, (1,), (data, output))
    for value in (regions, *node.inputs[2:]):
        if value is not None:
            axes.equal(axes.of(value, 0), axes.of(output, 0))


def _two(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    first, second = node.inputs[:2]
    assert first is not None and second is not None
    return first, second


def _alike(axes: Axes, which: Iterable[int], values: tuple[ir.Value, ...]) -> None:
    first, *others = (value for value in values if value.name)
    for axis in which:
        for other in others:
            axes.equal(axes.of(first, axis), axes.of(other, axis))
