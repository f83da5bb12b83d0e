"""Fix shapes of graph inputs, so that more can be folded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes.base import Pass, Promise

__all__ = ["SetInputShapes"]


@dataclass(frozen=True)
class SetInputShapes(Pass):
    """Fix the shapes of inputs, and symbolic dimensions wherever they occur.

    1. ``shapes``: the whole shape of an input; a dimension that is static already may not change.
    2. ``dims``: a symbolic dimension by its name, in inputs, outputs and annotations.

    Annotations of intermediate values that could contradict the new shapes are dropped.

    Raises (when run):
        OptionError: no such input or dimension, another rank, or a static dimension of another size.

    Example:
        >>> x = ir.Value(name="x", shape=ir.Shape(["batch", 3]), type=ir.TensorType(ir.DataType.FLOAT))
        >>> model = ir.Model(ir.Graph([x], [x], nodes=[], opset_imports={"": 17}), ir_version=8)
        >>> SetInputShapes(dims={"batch": 2})(model).modified, x.shape.numpy()
        (True, (2, 3))
    """

    name: ClassVar[str] = "set-input-shapes"
    promise: ClassVar[Promise] = Promise.EXACT

    shapes: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict, metadata={"help": "shapes to fix, by input name"}
    )
    dims: Mapping[str, int] = field(
        default_factory=dict, metadata={"help": "symbolic dimensions to fix, by name"}
    )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        sizes = dict(self.dims)
        inputs = {value.name: value for value in model.graph.inputs}
        for name, shape in self.shapes.items():
            if name not in inputs:
                raise OptionError(f"the model has no input {name!r}", hint=_near(name, inputs))
            sizes.update(_bind(inputs[name], shape))
        known = {
            dim.value
            for value in (*model.graph.inputs, *model.graph.outputs)
            for dim in value.shape or ()
            if isinstance(dim, ir.SymbolicDim) and dim.value
        }
        for name in self.dims:
            if name not in known:
                raise OptionError(f"the model has no symbolic dimension {name!r}", hint=_near(name, known))
        modified = False
        for name, shape in self.shapes.items():
            if _set_shape(inputs[name], ir.Shape(shape)):
                modified = True
        boundary = {*model.graph.inputs, *model.graph.outputs}
        for scope in edit.scopes(model):
            values = [*scope.inputs, *(out for node in scope for out in node.outputs)]
            for value in values:
                if value.shape is not None and _set_shape(value, _substituted(value.shape, sizes)):
                    modified = True
        if modified and self.shapes:
            # an unnamed dimension that was fixed may stand unnamed elsewhere too
            for node in model.graph.all_nodes():
                for value in node.outputs:
                    if value not in boundary and value.shape is not None and not value.shape.is_static():
                        value.shape = None
        return ir.passes.PassResult(model, modified)


def _bind(value: ir.Value, shape: tuple[int, ...]) -> dict[str, int]:
    """Symbol -> size, from the shape that an input shall have."""
    if value.shape is None:
        return {}
    if len(value.shape) != len(shape):
        raise OptionError(
            f"the shape {list(shape)} has {len(shape)} dimensions, the input has {len(value.shape)}",
            where=f"input {value.name}",
        )
    sizes: dict[str, int] = {}
    for dim, size in zip(value.shape, shape, strict=True):
        if isinstance(dim, int) and dim != size:
            raise OptionError(
                f"the model fixes a dimension to {dim}, which cannot become {size}",
                where=f"input {value.name}",
            )
        if isinstance(dim, ir.SymbolicDim) and dim.value and sizes.setdefault(dim.value, size) != size:
            raise OptionError(
                f"the dimension {dim.value!r} would have two sizes, {sizes[dim.value]} and {size}",
                where=f"input {value.name}",
            )
    return sizes


def _substituted(shape: ir.Shape, sizes: Mapping[str, int]) -> ir.Shape:
    return ir.Shape(
        [sizes.get(dim.value or "", dim) if isinstance(dim, ir.SymbolicDim) else dim for dim in shape]
    )


def _set_shape(value: ir.Value, shape: ir.Shape) -> bool:
    if value.shape == shape:
        return False
    value.shape = shape
    return True


def _near(name: str, known: Mapping[str | None, object] | set[str]) -> str:
    names = sorted(str(n) for n in known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
