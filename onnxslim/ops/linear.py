"""Nodes that are matrix products: rows of an input, times a stored weight, plus a bias.

What is solved for a matrix (least squares, second order) thereby holds for convolutions of any kernel and
grouping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.attributes import float_of, int_of, ints_of, text_of
from onnxslim.ops.spec import Array

__all__ = [
    "Linear",
    "bias_after",
    "conv_linear",
    "gemm_linear",
    "is_sum",
    "matmul_linear",
    "transposed_linear",
]


@dataclass(frozen=True, slots=True)
class Linear:
    """How one node multiplies: ``[groups, rows, length] @ [groups, length, outputs] + bias``.

    Attributes:
        groups: of channels, each with rows and a weight of its own.
        kernel: extent of the window whose elements make a row; None where rows lie along the last axis.
        strides, pads, dilations, same: of the window, as in ``Conv``.
        outputs_first: the weight is stored as ``[outputs, length]``.
        spread: of a transposed convolution, its strides: so far apart lie the elements of the input, with
            zeros between, under a window that goes by single steps.  The weight is stored as
            ``[inputs, outputs, *kernel]``, with the kernel the other way round.
        input, weight, bias: indices of the node's inputs; ``bias`` is None where it has no place for one.
    """

    groups: int = 1
    kernel: tuple[int, ...] | None = None
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    same: str = ""
    outputs_first: bool = False
    spread: tuple[int, ...] = ()
    input: int = 0
    weight: int = 1
    bias: int | None = None

    @property
    def channels(self) -> int:
        """The axis of the output's channels."""
        return -1 if self.kernel is None else 1

    def matrix(self, weight: Array) -> Array:
        """A weight as ``[groups, length, outputs]``.

        Example:
            >>> Linear(groups=2, kernel=(3, 3), outputs_first=True).matrix(np.zeros((8, 4, 3, 3))).shape
            (2, 36, 4)
        """
        if self.spread:
            turned = np.moveaxis(np.flip(weight, tuple(range(2, weight.ndim))), 1, -1)
            return turned.reshape(1, -1, weight.shape[1])
        if not self.outputs_first:
            return weight[None]
        return weight.reshape(self.groups, len(weight) // self.groups, -1).swapaxes(1, 2)

    def weight_of(self, matrix: Array, shape: Sequence[int]) -> Array:
        """The inverse of :meth:`matrix`, for a weight of that shape."""
        if self.spread:
            turned = np.moveaxis(matrix.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
            return np.ascontiguousarray(np.flip(turned, tuple(range(2, len(shape)))))
        return np.ascontiguousarray((matrix.swapaxes(1, 2) if self.outputs_first else matrix).reshape(shape))


def conv_linear(node: ir.Node, shape: Sequence[int]) -> Linear | None:
    """Of a Conv whose weight has that shape."""
    groups = int_of(node, "group", 1)
    if len(shape) < 3 or groups < 1 or shape[0] % groups:
        return None
    auto = text_of(node, "auto_pad", "NOTSET")
    same = auto if auto.startswith("SAME") else ""
    return Linear(
        groups=groups,
        kernel=tuple(shape[2:]),
        strides=tuple(ints_of(node, "strides") or ()),
        pads=() if same or auto == "VALID" else tuple(ints_of(node, "pads") or ()),
        dilations=tuple(ints_of(node, "dilations") or ()),
        same=same,
        outputs_first=True,
        bias=2,
    )


def transposed_linear(node: ir.Node, shape: Sequence[int]) -> Linear | None:
    """Of a ConvTranspose whose weight has that shape: a convolution with what its strides spread apart.

    Left alone: groups, pads that follow from the size of the output, and those that cut off more than the
    kernel reaches over.
    """
    rank = len(shape) - 2
    derived = text_of(node, "auto_pad", "NOTSET") != "NOTSET" or ints_of(node, "output_shape")
    if rank < 1 or int_of(node, "group", 1) != 1 or derived:
        return None
    ones, zeros = [1] * rank, [0] * rank
    dilations = ints_of(node, "dilations") or ones
    pads = ints_of(node, "pads") or zeros * 2
    more = ints_of(node, "output_padding") or zeros
    reach = [(k - 1) * d for k, d in zip(shape[2:], dilations, strict=True)]
    begins = [r - p for r, p in zip(reach, pads[:rank], strict=True)]
    ends = [r - p + m for r, p, m in zip(reach, pads[rank:], more, strict=True)]
    if min(*begins, *ends) < 0:
        return None
    return Linear(
        kernel=tuple(shape[2:]),
        pads=(*begins, *ends),
        dilations=tuple(dilations),
        spread=tuple(ints_of(node, "strides") or ones),
        bias=2,
    )


def matmul_linear(node: ir.Node, shape: Sequence[int]) -> Linear | None:
    """Of a MatMul with a matrix on the right."""
    return Linear() if len(shape) == 2 else None


def gemm_linear(node: ir.Node, shape: Sequence[int]) -> Linear | None:
    """Of a Gemm that neither scales nor transposes what it multiplies."""
    scaled = float_of(node, "alpha", 1.0) != 1 or float_of(node, "beta", 1.0) != 1
    if scaled or int_of(node, "transA", 0) or len(shape) != 2 or not math.prod(shape):
        return None
    return Linear(outputs_first=bool(int_of(node, "transB", 0)), bias=2)


def is_sum(node: ir.Node) -> bool:
    """Whether a node adds two values up."""
    return node.op_type == "Add" and node.domain in ("", "ai.onnx") and len(node.inputs) == 2


def bias_after(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The Add that alone reads a product along the last axis, and the constant vector that it adds."""
    uses = tuple(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    user, index = uses[0]
    if not is_sum(user):
        return None
    other = user.inputs[1 - index]
    if other is None or not other.is_initializer() or other.is_graph_input() or other.const_value is None:
        return None
    return (user, other) if len(other.const_value.shape) == 1 else None
