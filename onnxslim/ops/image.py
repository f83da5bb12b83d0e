"""Images and grids: resizing, sampling, blocks."""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim._ir import ir
from onnxslim.ops import image_gradient, indexing_axes, movement_gradient
from onnxslim.ops.attributes import int_of, ints_of, text_of
from onnxslim.ops.coupling import Axes
from onnxslim.ops.movement import given
from onnxslim.ops.noop import same_dims
from onnxslim.ops.sizes import elements_bytes, item_bytes, total_bytes
from onnxslim.ops.spec import Array, Facts, OpSpec, QuantRole, first_input

__all__ = ["SPECS"]

Inputs = Sequence[Array | None]


def _resize_bytes(node: ir.Node, inputs: Inputs) -> int | None:
    """https://onnx.ai/onnx/operators/onnx__Resize.html: ``sizes``, or ``scales`` times the size."""
    data = given(inputs, 0)
    sizes = inputs[3] if len(inputs) > 3 else None
    scales = sizes if sizes is not None else inputs[2] if len(inputs) > 2 else inputs[1]
    if scales is None or not scales.size:
        return None
    dims = list(data.shape)
    for axis, wanted in zip(ints_of(node, "axes") or range(len(dims)), scales.ravel().tolist(), strict=False):
        grown = wanted if sizes is not None else dims[axis] * max(float(wanted), 0.0)
        if not grown < 1e30:  # not a number, infinite, or beyond any memory
            return None
        dims[axis] = int(grown) + (sizes is None)
        if sizes is not None and text_of(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            return None
    return elements_bytes(dims, item_bytes(data))


def _resize_is_noop(node: ir.Node, facts: Facts) -> int | None:
    """Between equal sizes the runtime copies, whatever the mode, unless a region is cut out."""
    if text_of(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return None
    return 0 if same_dims(node.inputs[0], node.outputs[0], facts) else None


def _one_block(node: ir.Node, facts: Facts) -> int | None:
    return 0 if int_of(node, "blocksize", 0) == 1 else None


def _interpolated(node: ir.Node) -> Sequence[int]:
    """Outside of a region that is cut out stands a number of its own."""
    cut_out = text_of(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return () if cut_out else (0,)


def _resized(node: ir.Node, axes: Axes) -> None:
    """An axis that keeps its size is handed on; Spec: https://onnx.ai/onnx/operators/onnx__Resize.html"""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    stretched = text_of(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    mode = text_of(node, "coordinate_transformation_mode", "half_pixel")
    if not stretched or mode == "tf_crop_and_resize":
        return
    dims, rank = axes.dims(data), len(axes.dims(output))
    listed = ints_of(node, "axes")
    places = {axis % rank: place for place, axis in enumerate(range(rank) if listed is None else listed)}
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    scales = node.inputs[min(2, len(node.inputs) - 1)] if len(node.inputs) > 1 else None
    content = None if scales is None or sizes is not None else axes.constant(scales)
    for axis, size in enumerate(dims):
        if size is None or size != axes.dims(output)[axis]:
            continue
        place = places.get(axis)
        if place is not None and sizes is not None:
            axes.holds(3, place, axes.of(output, axis))
        elif place is not None and (content is None or content.reshape(-1)[place] != 1):
            continue
        axes.equal(axes.of(data, axis), axes.of(output, axis))


def _to_space(node: ir.Node, axes: Axes) -> None:
    """Channels are blocks times channels, or the other way round."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    axes.equal(axes.of(data, 0), axes.of(output, 0))
    block = axes.fixed(int_of(node, "blocksize", 1) ** 2, "it becomes positions")
    inner = (block, axes.of(output, 1))
    crd = text_of(node, "mode", "DCR") == "CRD"
    axes.equal(axes.of(data, 1), axes.times(reversed(inner) if crd else inner))


def _to_depth(node: ir.Node, axes: Axes) -> None:
    """Positions become blocks in front of the channels."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    axes.equal(axes.of(data, 0), axes.of(output, 0))
    block = axes.fixed(int_of(node, "blocksize", 1) ** 2, "it was positions")
    axes.equal(axes.of(output, 1), axes.times((block, axes.of(data, 1))))


SPECS = (
    OpSpec(op_type="Resize", vjp=image_gradient.RULES["Resize"],
           couple=_resized, sized_by=(2, 3), output_bytes=_resize_bytes,
           homogeneous=_interpolated, identity_input=_resize_is_noop, quant=QuantRole()),
    OpSpec(op_type="Upsample", couple=_resized, sized_by=(1,), output_bytes=_resize_bytes,
           homogeneous=first_input, identity_input=_resize_is_noop, quant=QuantRole()),
    OpSpec(op_type="DepthToSpace", vjp=movement_gradient.RULES["DepthToSpace"],
           couple=_to_space, output_bytes=total_bytes,
           moves=first_input, identity_input=_one_block),
    OpSpec(op_type="SpaceToDepth", vjp=movement_gradient.RULES["SpaceToDepth"],
           couple=_to_depth, output_bytes=total_bytes,
           moves=first_input, identity_input=_one_block),
    OpSpec(op_type="GridSample", couple=indexing_axes.grid_sample),
    OpSpec(op_type="RoiAlign", couple=indexing_axes.roi_align),
    *(OpSpec(op_type=name) for name in ("AffineGrid", "Col2Im", "ImageDecoder")),
)  # fmt: skip
