"""Images and grids: resizing, sampling, blocks."""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim._ir import ir
from onnxslim.ops.attributes import int_of, ints_of, text_of
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


SPECS = (
    OpSpec(op_type="Resize", sized_by=(2, 3), output_bytes=_resize_bytes, homogeneous=_interpolated,
           identity_input=_resize_is_noop, quant=QuantRole()),
    OpSpec(op_type="Upsample", sized_by=(1,), output_bytes=_resize_bytes, homogeneous=first_input,
           identity_input=_resize_is_noop, quant=QuantRole()),
    OpSpec(op_type="DepthToSpace", output_bytes=total_bytes, moves=first_input, identity_input=_one_block),
    OpSpec(op_type="SpaceToDepth", output_bytes=total_bytes, moves=first_input, identity_input=_one_block),
    *(OpSpec(op_type=name) for name in ("AffineGrid", "Col2Im", "GridSample", "RoiAlign", "ImageDecoder")),
)  # fmt: skip
