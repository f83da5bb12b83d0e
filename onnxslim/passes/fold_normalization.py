"""Fold what normalises an input into the weights of the node that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of
from onnxslim.passes._linear import Affine, Channels, Linear, affine_of, set_input
from onnxslim.passes.base import Pass, Promise

__all__ = ["FoldNormalization"]

_FARTHEST = 256.0  # normalised zero may lie so many units from the input's: float32 keeps four digits then


@dataclass(frozen=True)
class FoldNormalization(Pass):
    """Fold Sub, Div, Mul, Add and BatchNormalization of an input into the weights that read the result.

    ``y = w (a x + b) + c`` with ``a`` and ``b`` per input channel is ``(w a) x + (c + sum of w b)``.

    1. Gemm, and Conv that pads nothing: all of it is folded.
    2. Conv that pads: its zeros stand for normalised zeros, of which x has one per channel.  What scales is
       folded, up to the node nearest to it that shifts.
    3. Only at an input of the model, perhaps behind nodes that move its values, or a Cast.  Elsewhere the
       same arithmetic ends a LayerNormalization or a Gelu, which the runtime would no longer recognise.

    Declined: as in fold-batch-norm, and zeros so far apart that the sum would lose digits.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,1,4] x) => (float[1,1,4] y) <float[1,1,1] w = {2}, float[1] s = {3}>
        ...     { h = Div(x, s)  y = Conv(h, w) }'''))
        >>> FoldNormalization()(model).modified, [node.op_type for node in model.graph]
        (True, ['Conv'])
    """

    name: ClassVar[str] = "fold-normalization"
    promise: ClassVar[Promise] = Promise.CLOSE

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified, shapes = False, None
        for node in model.graph:
            if node.domain != "" or node.op_type not in _PRODUCTS or node.attributes.get_int("transA", 0) != 0:
                continue
            if (linear := Linear.of(node)) is None:
                continue
            chain = list(_affine_chain(node, linear.inputs))
            if not chain or not _is_given(source := _source(chain[-1])):
                continue
            shapes = shapes or infer(model)
            if _has_channels(source, linear.inputs, shapes):
                modified |= self._fold(model.graph, linear, chain)
        return ir.passes.PassResult(model, modified)

    def _fold(self, graph: ir.Graph, linear: Linear, chain: list[Affine]) -> bool:
        node = linear.node
        if not _takes_shifts(node):
            chain = list(takewhile(lambda step: not step.b.any(), chain))
        if not chain:
            return False
        reason = linear.refuses()
        a, b = np.ones(1), np.zeros(1)
        with np.errstate(all="ignore"):
            for step in chain:
                a, b = a * step.a, a * step.b + b
            weight = linear.times_inputs(a).astype(linear.weight.dtype)
            shift = node.attributes.get_float("alpha", 1.0) * linear.sums(linear.times_inputs(b))
            bias = (linear.bias + shift).astype(linear.weight.dtype)
            if reason is None and not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                reason = "the folded weight is not finite"
            if reason is None and np.abs(b).max() > _FARTHEST:
                reason = "zero lies too far from the normalised zero, and the sum would lose digits"
        if reason is not None:
            self.decline(node.name or node.outputs[0].name or "", reason)
            return False
        node.replace_input_with(0, _source(chain[-1]))
        for step in chain:
            edit.remove_node(step.node)
        set_input(graph, node, 1, weight)
        if b.any():
            set_input(graph, node, 2, bias)
            node.attributes.pop("beta", None)
        return True


def _affine_chain(node: ir.Node, channels: Channels) -> Iterator[Affine]:
    """The nodes before ``node``, each read by the one behind it alone, that scale or shift its channels."""
    graph, value = node.graph, node.inputs[0]
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        producer = value.producer()
        if producer is None or producer.graph is not graph:
            return
        computed = [i for i, v in enumerate(producer.inputs) if edit.constant_value(v) is None]
        step = affine_of(producer, computed[0], channels) if len(computed) == 1 else None
        if step is None:
            return
        yield step
        value = _source(step)


def _source(step: Affine) -> ir.Value:
    """What a step scales or shifts."""
    [value] = [v for v in step.node.inputs if v is not None and edit.constant_value(v) is None]
    return value


def _is_given(value: ir.Value | None) -> bool:
    """Whether it is an input of the model, moved or cast at most."""
    while value is not None and (node := value.producer()) is not None:
        spec = spec_of(node)
        moves = spec is not None and spec.moved_inputs(node) == (0,)
        if not moves and (node.domain, node.op_type) != ("", "Cast"):
            return False
        value = node.inputs[0]
    return value is not None and value.is_graph_input()


def _has_channels(value: ir.Value, channels: Channels, shapes: Shapes) -> bool:
    """Whether the arithmetic leaves its shape as it is, rather than broadcasting it to all channels."""
    shape = shapes.shape(value)
    if shape is None or len(shape) != channels.rank:
        return False
    return shape[-1 if channels.last else 1] == channels.count


def _takes_shifts(node: ir.Node) -> bool:
    """Whether nothing is padded."""
    unpadded = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return unpadded and not any(node.attributes.get_ints("pads", ()))


_PRODUCTS = frozenset({"Conv", "Gemm"})
