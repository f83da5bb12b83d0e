"""Remove channels from every tensor that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels.removal import Removal
from onnxslim.analysis.facts import forget_facts
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["PruneChannels"]


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove atoms of groups of channels (:func:`onnxslim.analysis.channels.find_groups`).

    The result computes what the model would with these channels masked: every sum over channels leaves them
    out.  Weights, integers that hold sizes, indices into what shrinks and attributes (``group``,
    ``hidden_size``, ...) are rewritten; axes that are open stay so, and the interface is untouched.

    Attributes:
        remove: key of a group -> the atoms to remove.
        residual: also groups that a normalisation averages over may be named.

    Raises (when called):
        OptionError: there is no such group or atom, or nothing of a group would stay.

    Example:
        >>> import onnx.parser
        >>> from onnxslim.analysis.channels import find_groups
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,1] x) => (float[1,1] y) <float[1,2] a = {1, 2}, float[2,1] b = {3, 4}>
        ...     { h = MatMul(x, a)  y = MatMul(h, b) }'''))
        >>> [group] = find_groups(model).groups
        >>> PruneChannels({group.key: [0]})(model).modified
        True
        >>> edit.constant_value(model.graph.initializers["b"]).tolist()
        [[4.0]]
    """

    name: ClassVar[str] = "prune-channels"
    promise: ClassVar[Promise] = Promise.LOSSY
    remove: Mapping[str, Sequence[int]] = field(
        default_factory=dict, hash=False, metadata={"help": "key of a group -> atoms to remove"}
    )
    residual: bool = field(default=False, metadata={"help": "also channels that a normalisation averages over"})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not any(len(atoms) for atoms in self.remove.values()):
            return ir.passes.PassResult(model, modified=False)
        removal = Removal.of(model, self.remove, residual=self.residual)
        shapes = _shapes(removal)
        copies = removal.copies()
        _rewrite_constants(removal)
        _correct_copies(copies, removal.found.sizes.lengths)
        _write_lengths(removal)
        _rewrite_attributes(removal)
        for value, shape in shapes.items():
            value.shape = shape
        forget_facts(model)
        return ir.passes.PassResult(model, modified=True)


def _shapes(removal: Removal) -> dict[ir.Value, ir.Shape]:
    """The new shapes of values that are computed."""
    found: dict[ir.Value, ir.Shape] = {}
    for value, masks in removal.masks():
        if value.shape is None or value.is_initializer():
            continue
        dims = list(value.shape)
        for axis, mask in masks.items():
            size = dims[axis]
            if isinstance(size, int):  # annotated: an axis that was open to the analysis repeats the mask
                dims[axis] = int(np.resize(mask, size).sum())
        found[value] = ir.Shape(dims)
    return found


def _rewrite_constants(removal: Removal) -> None:
    """Slices, sizes and indices of stored tensors."""
    contents: dict[ir.Value, npt.NDArray[np.generic]] = {}

    def content(value: ir.Value) -> npt.NDArray[np.generic]:
        if value not in contents:
            stored = edit.constant_value(value)
            assert stored is not None
            contents[value] = stored
        return contents[value]

    for value, element, number in removal.sizes():
        changed = content(value).copy()
        changed.reshape(-1)[element] = number
        contents[value] = changed
    for value, places in removal.picks():  # before slicing: a list of indices may shrink as well
        old = content(value)
        contents[value] = places[old].astype(old.dtype)
    for value, masks in removal.masks():
        if edit.constant_value(value) is None:
            continue
        sliced = content(value)
        for axis, mask in masks.items():
            sliced = np.compress(mask, sliced, axis)
        contents[value] = sliced
    for value, changed in contents.items():
        edit.replace_constant(value, changed)


def _correct_copies(
    copies: Mapping[tuple[ir.Node, int], Mapping[int, int]], lengths: Mapping[ir.Value, int]
) -> None:
    """Sizes that other nodes read as they were, or that are computed: a copy with some elements replaced."""
    for (node, index), elements in copies.items():
        value, scope = node.inputs[index], node.graph
        assert value is not None and scope is not None
        stored = edit.constant_value(value)
        if stored is not None:
            changed = stored.copy()
            changed.reshape(-1)[list(elements)] = list(elements.values())
            node.replace_input_with(index, edit.add_constant(scope, changed, f"{value.name}_pruned", before=node))
            continue
        keep, add = np.ones(lengths[value], np.int64), np.zeros(lengths[value], np.int64)
        keep[list(elements)], add[list(elements)] = 0, list(elements.values())
        for op_type, operand in (("Mul", keep), ("Add", add)):
            constant = edit.add_constant(scope, operand, f"{value.name}_pruned", before=node)
            step = ir.node(op_type, [value, constant])
            step.outputs[0].name = step.name = edit.unique_name(scope, f"{value.name}_pruned")
            step.outputs[0].type = ir.TensorType(ir.DataType.INT64)
            scope.insert_before(node, step)
            value = step.outputs[0]
        node.replace_input_with(index, value)


def _write_lengths(removal: Removal) -> None:
    """Sizes that are equal by default, written down where they are so no more."""
    for node, index, sizes in removal.lengths():
        assert node.graph is not None
        hint = f"{node.name or node.outputs[0].name}_sizes"
        stored = edit.add_constant(node.graph, np.array(sizes, np.int64), hint, before=node)
        node.resize_inputs(max(len(node.inputs), index + 1))
        node.replace_input_with(index, stored)
        node.attributes.pop("num_outputs", None)


def _rewrite_attributes(removal: Removal) -> None:
    for node, name, number in removal.attributes():
        if isinstance(number, list):
            node.attributes[name] = ir.AttrInt64s(name, number)
        else:
            node.attributes[name] = ir.AttrInt64(name, number)
    for node, name, factor in removal.frozen():
        node.attributes[name] = ir.AttrFloat32(name, factor)
