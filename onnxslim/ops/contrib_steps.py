"""Operators of onnxruntime's own domain as standard ones, which have gradients.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Expand, Tape, Undifferentiable
from onnxslim.ops.attributes import float_of, has, int_of
from onnxslim.ops.matmul_gradient import swapped
from onnxslim.ops.terms import Term

__all__ = ["EXPANSIONS"]

Outputs = Sequence[Term | None]


def _erf_gelu(x: Term) -> Term:
    return x * ((x * math.sqrt(0.5)).then("Erf") * 0.5 + 0.5)


def _biased(tape: Tape) -> Term:
    return tape.x(0) + tape.x(1) if tape.has(1) else tape.x(0)


def _gelu(node: ir.Node, tape: Tape) -> Outputs:
    return [_erf_gelu(_biased(tape))]


def _fast_gelu(node: ir.Node, tape: Tape) -> Outputs:
    x = _biased(tape)
    inner = x * (x * x * (0.044715 * math.sqrt(2 / math.pi)) + math.sqrt(2 / math.pi))
    return [x * (inner.then("Tanh") * 0.5 + 0.5)]


def _quick_gelu(node: ir.Node, tape: Tape) -> Outputs:
    x = tape.x()
    return [x * (x * float_of(node, "alpha", 1.702)).then("Sigmoid")]


def _fused_product(node: ir.Node, tape: Tape) -> Outputs:
    if has(node, "transBatchA", "transBatchB"):
        raise Undifferentiable("the batch is transposed")
    a, b = tape.x(0), tape.x(1)
    a = swapped(a, len(tape.dims(a))) if int_of(node, "transA", 0) else a
    b = swapped(b, len(tape.dims(b))) if int_of(node, "transB", 0) else b
    alpha = float_of(node, "alpha", 1.0)
    product = a.then("MatMul", b)
    return [product if alpha == 1 else product * alpha]


def _skip_norm(node: ir.Node, tape: Tape) -> Outputs:
    """A sum, normalised over its last axis; the sum is the fourth output."""
    total = tape.x(0) + tape.x(1)
    total = total + tape.x(4) if tape.has(4) else total
    bias = [tape.x(3)] if tape.has(3) else []
    epsilon = float_of(node, "epsilon", 1e-12)
    return [total.then("LayerNormalization", tape.x(2), *bias, axis=-1, epsilon=epsilon), None, None, total]


def _skip_root(node: ir.Node, tape: Tape) -> Outputs:
    """The same without a mean."""
    total = tape.x(0) + tape.x(1)
    total = total + tape.x(3) if tape.has(3) else total
    square = (total * total).mean([-1]) + float_of(node, "epsilon", 1e-12)
    return [total / square.then("Sqrt") * tape.x(2), None, None, total]


EXPANSIONS: Mapping[str, Expand] = MappingProxyType(
    {
        "BiasGelu": _gelu,
        "FastGelu": _fast_gelu,
        "FusedMatMul": _fused_product,
        "Gelu": _gelu,
        "QuickGelu": _quick_gelu,
        "SkipLayerNormalization": _skip_norm,
        "SkipSimplifiedLayerNormalization": _skip_root,
    }
)
