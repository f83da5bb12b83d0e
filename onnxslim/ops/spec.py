"""What is known about an operator, in one declaration.

A spec states facts and takes no decisions: passes, analyses and the quantizer read the facts and decide.
What a spec leaves out is not known, and whoever reads it has to stay on the safe side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from onnxslim._ir import ir

if TYPE_CHECKING:
    from onnxslim.ops.adjoint import Expand, Vjp
    from onnxslim.ops.coupling import Axes
    from onnxslim.ops.linear import Linear

__all__ = [
    "Array",
    "Declined",
    "Dims",
    "Facts",
    "OpSpec",
    "QuantRole",
    "ShapeOf",
    "every_input",
    "first_input",
    "first_variable",
    "like_first",
]

Array = npt.NDArray[Any]
Dims = Sequence[int | str | None]
ShapeOf = Callable[[ir.Value], Dims | None]


class Declined(ValueError):  # noqa: N818 (an answer rather than an error)
    """An evaluator cannot promise the runtime's very bits for these inputs; the runtime itself still can."""


class Facts(Protocol):
    """What is known about the values around a node."""

    def shape(self, value: ir.Value) -> Dims | None:
        """Dimensions: an int, a name that means the same size everywhere, or None where unknown."""

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a tensor."""

    def constant(self, value: ir.Value) -> Array | None:
        """Content of a value that is the same in every run."""


def first_input(node: ir.Node) -> Iterable[int]:
    """For :attr:`OpSpec.moves`: the elements of input 0 are moved, the others say where to."""
    return (0,)


def like_first(node: ir.Node, shape_of: ShapeOf) -> Dims | None:
    """For :attr:`OpSpec.dims`: output 0 is as large as input 0, along every axis."""
    data = node.inputs[0] if node.inputs else None
    return None if data is None else shape_of(data)


def every_input(node: ir.Node) -> Iterable[int]:
    """For :attr:`OpSpec.moves`: all inputs are moved into the output."""
    return range(len(node.inputs))


def first_variable(node: ir.Node) -> Iterable[int]:
    """For :attr:`OpSpec.homogeneous`: the operator is linear in each of its inputs while the others stay."""
    return [i for i, value in enumerate(node.inputs) if value is not None and value.const_value is None][:1]


@dataclass(frozen=True, slots=True)
class QuantRole:
    """How an operator takes part in integer arithmetic.

    Attributes:
        inputs: indices of the inputs that are activations; None for all of them.
        weight: index of the input that is a weight when it is constant.
        weight_axis: the output channel axis of the weight (per-channel scales run along it); None where only
            one scale for the whole tensor is possible.  Example: 1 for ConvTranspose, whose weight is
            ``[in, out / group, ...]``.
        bias: index of the bias, which an integer kernel reads as int32 of scale ``input * weight``.
        kernel: the integer operator that onnxruntime's CPU provider makes of it between Dequantize- and
            QuantizeLinear, None where there is none.
        integer: the operator itself computes with integers already.
        packed: bits of an element of input 1, a weight that packs several of them into a byte.
    """

    inputs: tuple[int, ...] | None = (0,)
    weight: int | None = None
    weight_axis: Callable[[ir.Node], int | None] | None = None
    bias: int | None = None
    kernel: str | None = None
    integer: bool = False
    packed: Callable[[ir.Node], int] | None = None

    def indices(self, node: ir.Node) -> tuple[int, ...]:
        """The inputs that are activations."""
        return tuple(range(len(node.inputs))) if self.inputs is None else self.inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSpec:
    """One operator, in all the versions of its operator set.

    Attributes:
        op_type, domain: as in the node; the domain of standard operators is empty.
        deterministic: equal inputs give equal outputs.
        pure: running it does nothing but computing its outputs, so an unread node may go.
        foldable: constant inputs make constant outputs that may be stored instead of computed.
        numpy: ``(node, inputs) -> outputs``, bit for bit what onnxruntime computes with its optimizations
            off.  Raises Declined where that is not certain, anything else where the node is invalid.
            An absent input is None.  Sized by ``output_bytes`` first, if the inputs come from a user.
        output_bytes: ``(node, inputs) -> bytes`` of all outputs at most, before anything is allocated;
            None where that is not known beforehand.
        sized_by: indices of the inputs whose contents decide how large the output is.
        dims_input: index of the input that lists the dimensions of the output.
        from_dims: ``(node, dims of input 0) -> output``, for what reads the shape of its input alone.
        moves: indices of the inputs whose elements arrive in the output unchanged (in whatever order).
        casts: output 0 has the elements of input 0, in another type where they fit.
        indexes: ``(node, shape_of) -> (index of an input, size)`` of inputs whose elements must lie in
            ``[-size, size)``, since they pick along an axis of that size.
        elementwise: output element i depends on the elements i of the (broadcast) inputs alone.
        identity_input: ``(node, facts) -> index`` of the input that output 0 equals bit for bit, if any.
        homogeneous: indices of the inputs whose channels, multiplied by positive numbers alike in all, have
            those of output 0 multiplied by the same, while the other inputs stay.  Channels lie along
            any axis where the operator is elementwise, else along axis 1.
        affine: ``node -> axis`` of output 0 along which inputs 1 and 2 scale and shift it, one number per
            channel.
        macs: ``(node, shape_of) -> multiply-accumulates`` of one run, None where a shape is not known; a spec
            without it counts none.
        quant: part in integer arithmetic, None where there is none.
        linear: ``(node, shape of its weight) -> Linear``, for what multiplies rows with a stored weight; None
            where this node does something else as well.
        dims: ``(node, shape_of) -> dimensions`` of output 0, for what onnx itself does not infer.
        couple: ``(node, axes)``, says how axes hang together (:mod:`onnxslim.ops.coupling`); None where
            nobody knows, unless the operator is elementwise.
        vjp: ``(node, tape) -> gradients of the inputs``, by index (:mod:`onnxslim.ops.adjoint`); None where
            nobody knows, ``flat`` where they are zero everywhere or undefined.
        expand: ``(node, tape) -> outputs``, computed by operators that have a ``vjp``, for what has none.
        doc: page of the specification.
    """

    op_type: str
    domain: str = ""
    deterministic: bool = True
    pure: bool = True
    foldable: bool = True
    numpy: Callable[[ir.Node, Sequence[Array | None]], Sequence[Array]] | None = None
    output_bytes: Callable[[ir.Node, Sequence[Array | None]], int | None] | None = None
    sized_by: tuple[int, ...] = ()
    dims_input: int | None = None
    from_dims: Callable[[ir.Node, Array], Array | None] | None = None
    moves: Callable[[ir.Node], Iterable[int]] | None = None
    casts: bool = False
    indexes: Callable[[ir.Node, ShapeOf], Iterable[tuple[int, int | str | None]]] | None = None
    elementwise: bool = False
    identity_input: Callable[[ir.Node, Facts], int | None] | None = None
    homogeneous: Callable[[ir.Node], Iterable[int]] | None = None
    affine: Callable[[ir.Node], int] | None = None
    macs: Callable[[ir.Node, ShapeOf], int | None] | None = None
    quant: QuantRole | None = None
    linear: Callable[[ir.Node, Sequence[int]], Linear | None] | None = None
    dims: Callable[[ir.Node, ShapeOf], Dims | None] | None = None
    couple: Callable[[ir.Node, Axes], None] | None = None
    vjp: Vjp | None = None
    expand: Expand | None = None

    @property
    def data_movement(self) -> bool:
        """Output elements are input elements: a scale and zero point of the input fit the output."""
        return self.moves is not None

    def moved_inputs(self, node: ir.Node) -> tuple[int, ...]:
        """Indices of the inputs whose elements arrive in the output unchanged."""
        return () if self.moves is None else tuple(self.moves(node))

    @property
    def doc(self) -> str:
        """Page of the specification."""
        if self.domain in ("", "ai.onnx.ml"):
            path = f"{self.domain.replace('.', '')}_{self.op_type}"
            return f"https://onnx.ai/onnx/operators/onnx_{path}.html"
        return f"https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#{self.domain}.{self.op_type}"
