"""Normalization layers."""

from __future__ import annotations

from onnxslim._ir import ir
from onnxslim.ops.attributes import int_of, ints_of
from onnxslim.ops.coupling import Axes, same_axes
from onnxslim.ops.normalization_gradient import RULES, local_response
from onnxslim.ops.sizes import total_bytes
from onnxslim.ops.spec import OpSpec, QuantRole, like_first

__all__ = ["SPECS", "is_scale", "over_last_axes"]


def _batch(node: ir.Node, axes: Axes) -> None:
    """Every channel by itself, with stored statistics."""
    data = node.inputs[0]
    if any(output.name for output in node.outputs[1:]) or int_of(node, "training_mode", 0) or data is None:
        return
    same_axes(node, axes)
    for value in node.inputs[1:]:
        if value is not None:
            axes.equal(axes.of(data, 1), axes.of(value, 0))


def _instance(node: ir.Node, axes: Axes) -> None:
    """Every channel by itself, with statistics over what comes behind it: positions, or channels reshaped."""
    data = node.inputs[0]
    assert data is not None
    same_axes(node, axes)
    for axis in range(2, len(axes.dims(data))):
        axes.averaged(axes.of(data, axis))
    for value in node.inputs[1:]:
        if value is not None:
            axes.equal(axes.of(data, 1), axes.of(value, 0))


def _group(node: ir.Node, axes: Axes) -> None:
    """Statistics over all channels of a group: whole groups may go."""
    data = node.inputs[0]
    assert data is not None
    size, groups = axes.dims(data)[1], int_of(node, "num_groups", 0)
    if not isinstance(size, int) or groups <= 0 or size % groups:
        return
    same_axes(node, axes, but=range(2, len(axes.dims(data))))
    group, rest = axes.free(groups), axes.free(size // groups)
    axes.equal(axes.of(data, 1), axes.times((group, rest)))
    axes.averaged(rest)
    axes.attribute("num_groups", group)
    for value in node.inputs[1:]:
        if value is not None:  # one number for each group, before operator set 21
            axes.equal(axes.of(value, 0), group if axes.dims(value)[0] == groups else axes.of(data, 1))


def _layer(node: ir.Node, axes: Axes) -> None:
    over_last_axes(node, axes, int_of(node, "axis", -1))


def over_last_axes(node: ir.Node, axes: Axes, first: int = -1) -> None:
    """Statistics over the axes from ``first`` on; scale and bias run along them.

    Further outputs, of which the normalised axes are 1, follow the others.
    """
    data = node.inputs[0]
    assert data is not None
    rank = len(axes.dims(data))
    for axis in range(first % rank, rank):
        axes.averaged(axes.of(data, axis))
    for value in (*node.inputs[1:], *node.outputs):
        dims = axes.dims(value)
        for back in range(1, len(dims) + 1):
            if value is not None and (own := axes.of(value, -back)) and dims[-back] != 1:
                axes.equal(axes.of(data, -back), own)


def _length(node: ir.Node, axes: Axes) -> None:
    """Divided by a sum over an axis, to which what is absent adds nothing."""
    axes.sums(0, int_of(node, "axis", -1))
    same_axes(node, axes)


def _mean_variance(node: ir.Node, axes: Axes) -> None:
    same_axes(node, axes, but=ints_of(node, "axes") or (0, 2, 3))


def _local(node: ir.Node, axes: Axes) -> None:
    """Neighbouring channels are summed up."""
    same_axes(node, axes, but=(1,))


def _behind_batch(node: ir.Node) -> int:
    return 1


def _last(node: ir.Node) -> int:
    return int_of(node, "axis", -1)


_AFFINE = {
    "BatchNormalization": _behind_batch,
    "GroupNormalization": _behind_batch,
    "InstanceNormalization": _behind_batch,
    "LayerNormalization": _last,
    "RMSNormalization": _last,
}

SPECS = tuple(
    OpSpec(
        op_type=name,
        output_bytes=total_bytes,
        affine=_AFFINE.get(name),
        quant=QuantRole(),
        dims=like_first,
        couple=couple,
        vjp=RULES.get(name),
        expand=local_response if name == "LRN" else None,
    )
    for name, couple in {
        "BatchNormalization": _batch,
        "GroupNormalization": _group,
        "InstanceNormalization": _instance,
        "LayerNormalization": _layer,
        "LpNormalization": _length,
        "LRN": _local,
        "MeanVarianceNormalization": _mean_variance,
        "RMSNormalization": _layer,
    }.items()
)


def is_scale(node: ir.Node, index: int) -> bool:
    """Whether an input of a node scales the channels of what it normalizes.

    Example:
        >>> is_scale(ir.node("BatchNormalization", [ir.Value(name=name) for name in "xsbmv"]), 1)
        True
    """
    return (
        index == 1 and node.domain in ("", "ai.onnx") and any(node.op_type == spec.op_type for spec in SPECS)
    )
