"""Gradients of matrix products."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp, sum_to
from onnxslim.ops.attributes import float_of, int_of, text_of
from onnxslim.ops.terms import Dim, Term, joined

__all__ = ["RULES", "added", "swapped"]


def swapped(term: Term, rank: int) -> Term:
    """A matrix, or a batch of them, transposed."""
    return term.transpose([*range(rank - 2), rank - 1, rank - 2])


def added(terms: Sequence[Term]) -> Term:
    """The sum of gradients; products that a weight gets from many steps become one of what is joined."""
    nodes = [term.value.producer() for term in terms]
    outer = [node for node in nodes if node is not None and _is_outer(node)]
    if len(terms) > 2 and len(outer) == len(terms):
        first = terms[0]
        sides = [[node.inputs[index] for node in outer] for index in (0, 1)]
        rows, columns = (joined([first.of(v) for v in side if v is not None], 0) for side in sides)
        return rows.then("Gemm", columns, transA=1)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _is_outer(node: ir.Node) -> bool:
    """Whether a node multiplies the rows of two matrices, and adds the products up."""
    plain = int_of(node, "transA", 0) == 1 and not int_of(node, "transB", 0)
    return node.op_type == "Gemm" and len(node.inputs) == 2 and plain and float_of(node, "alpha", 1.0) == 1


def _matmul(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """``dA = dY B^T``, ``dB = A^T dY``; a vector is a matrix of one row or column."""
    a, b, dy = tape.x(0), tape.x(1), tape.dy()
    rank_a, rank_b = len(tape.dims(a)), len(tape.dims(b))
    if rank_a == 1 or rank_b == 1:
        return _with_vectors(tape, a, b, dy, rank_a, rank_b)
    batch = tape.dims(tape.y())[:-2]
    found = {}
    if tape.wants(0):
        product = dy.then("MatMul", swapped(b, rank_b))
        found[0] = _sum_matrices(tape, product, batch, a)
    if tape.wants(1):
        found[1] = _right(tape, a, b, dy, batch)
    return found


def _right(tape: Tape, a: Term, b: Term, dy: Term, batch: Sequence[Dim]) -> Term:
    rank_a, rank_b = len(tape.dims(a)), len(tape.dims(b))
    inner, columns = tape.dims(b)[-2:]
    if rank_b == 2 and rank_a == 2:
        return a.then("Gemm", dy, transA=1)
    if rank_b == 2 and isinstance(inner, int) and isinstance(columns, int) and inner and columns:
        return a.reshape([-1, inner]).then("Gemm", dy.reshape([-1, columns]), transA=1)
    return _sum_matrices(tape, swapped(a, rank_a).then("MatMul", dy), batch, b)


def _sum_matrices(tape: Tape, product: Term, batch: Sequence[Dim], target: Term) -> Term:
    return sum_to(tape, product, (*batch, *tape.dims(target)[-2:]), target)


def _with_vectors(tape: Tape, a: Term, b: Term, dy: Term, rank_a: int, rank_b: int) -> Mapping[int, Term]:
    """The product of every element of ``dY`` with the row or column that it came from."""
    found = {}
    if rank_a == 1 and rank_b == 1:
        pairs = {0: dy * b, 1: dy * a}
        return {index: pairs[index] for index in tape.wanted}
    if rank_b == 1:
        column = dy.unsqueeze([-1])
        if tape.wants(0):
            found[0] = column * b
        if tape.wants(1):
            found[1] = (column * a).sum(range(rank_a - 1))
        return found
    row = dy.unsqueeze([-2])
    if tape.wants(0):
        found[0] = (row * b).sum([*range(rank_b - 2), rank_b - 1])
    if tape.wants(1):
        found[1] = row * a.unsqueeze([-1])
    return found


def _gemm(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """``alpha A' B' + beta C``. Spec: https://onnx.ai/onnx/operators/onnx__Gemm.html"""
    a, b, dy = tape.x(0), tape.x(1), tape.dy()
    trans_a, trans_b = int_of(node, "transA", 0), int_of(node, "transB", 0)
    alpha, beta = float_of(node, "alpha", 1.0), float_of(node, "beta", 1.0)
    found = {}
    if tape.wants(0):
        found[0] = (
            b.then("Gemm", dy, alpha=alpha, transA=trans_b, transB=1)
            if trans_a
            else dy.then("Gemm", b, alpha=alpha, transB=1 - trans_b)
        )
    if tape.wants(1):
        found[1] = (
            dy.then("Gemm", a, alpha=alpha, transA=1, transB=trans_a)
            if trans_b
            else a.then("Gemm", dy, alpha=alpha, transA=1 - trans_a)
        )
    if tape.wants(2):
        scaled = dy if beta == 1 else dy * beta
        found[2] = sum_to(tape, scaled, tape.dims(tape.y()), tape.x(2))
    return found


def _einsum(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """The same sum with the output in the place of the input; what only that input names is broadcast."""
    terms, result = _letters(node, tape)
    dy, found = tape.dy(), {}
    sizes: dict[str, Dim] = {}
    for index, letters in enumerate(terms):
        for letter, dim in zip(letters, tape.dims(tape.x(index)), strict=True):
            if sizes.get(letter, 1) == 1:
                sizes[letter] = dim
    for index in tape.wanted:
        own, x = terms[index], tape.x(index)
        if len(set(own)) < len(own):
            raise Undifferentiable("a diagonal is taken")
        others = [place for place in range(len(terms)) if place != index]
        seen = set(result).union(*(terms[place] for place in others))
        kept = "".join(letter for letter in own if letter in seen)
        equation = ",".join([result, *(terms[place] for place in others)]) + "->" + kept
        gradient = dy.then("Einsum", *(tape.x(place) for place in others), equation=equation)
        if kept != own:
            absent = [place for place, letter in enumerate(own) if letter not in seen]
            found[index] = gradient.unsqueeze(absent).expand(x.shape())
        else:
            found[index] = sum_to(tape, gradient, [sizes[letter] for letter in own], x)
    return found


def _letters(node: ir.Node, tape: Tape) -> tuple[list[str], str]:
    """One letter for each axis, those of an ellipsis included."""
    equation = text_of(node, "equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        counted = [c for c in left if c.isalpha()]
        result = ("..." if "..." in left else "") + "".join(
            sorted(c for c in counted if counted.count(c) == 1)
        )
    spare = [c for c in string.ascii_letters if c not in equation]
    ranks = [
        len(tape.dims(tape.x(index))) - len(term.replace("...", "")) if "..." in term else 0
        for index, term in enumerate(terms)
    ]
    dots = spare[: max(ranks, default=0)]
    spelled = [
        term.replace("...", "".join(dots[len(dots) - rank :]))
        for term, rank in zip(terms, ranks, strict=True)
    ]
    return spelled, result.replace("...", "".join(dots))


RULES: Mapping[str, Vjp] = MappingProxyType({"MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum})
