"""The walk from the loss back to what it was computed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxslim._ir import ir
from onnxslim.distillation._emitter import Emitter
from onnxslim.distillation._prepare import OPSET, captured, spread, sweep
from onnxslim.model.tensors import shown
from onnxslim.ops.adjoint import Tape, Undifferentiable, flat
from onnxslim.ops.control import control_flow
from onnxslim.ops.matmul_gradient import added
from onnxslim.ops.registry import spec_of
from onnxslim.ops.terms import Term

__all__ = ["Walk"]


class Walk:
    """Gradients of values, as they arrive from their consumers.

    Attributes:
        frozen: names without an exact gradient -> why.
    """

    def __init__(
        self, emitter: Emitter, reach: dict[ir.Value, frozenset[str]], refused: Mapping[ir.Node, str]
    ) -> None:
        self._emitter, self._reach, self._refused = emitter, reach, refused
        self._arrived: dict[ir.Value, list[Term]] = {}
        self.frozen: dict[str, str] = {}

    def back(self, graph: ir.Graph, seeds: Mapping[ir.Value, Term]) -> None:
        """From the last node to the first, behind all of which new ones are put."""
        for value, term in seeds.items():
            self._arrived.setdefault(value, []).append(term)
        for node in reversed(list(graph)):
            self._visit(node)

    def total(self, value: ir.Value) -> Term | None:
        """What has arrived from all consumers, added up once."""
        terms = self._arrived.get(value)
        if not terms:
            return None
        if len(terms) > 1:
            terms[:] = [added(terms)]
        return terms[0]

    def _visit(self, node: ir.Node) -> None:
        upstream = [self.total(output) for output in node.outputs]
        if all(term is None for term in upstream):
            return
        inside = [value for value in dict.fromkeys(captured(node)) if self._reach.get(value)]
        if inside and control_flow(node, OPSET) == "branches":
            self._branches(node, upstream, inside)
        elif inside:
            names = {name for value in inside for name in self._reach[value]}
            self._freeze(node, names, "it reads them inside of a graph of its own")
        inputs = enumerate(node.inputs)
        wanted = frozenset(index for index, value in inputs if value is not None and self._reach.get(value))
        if not wanted:
            return
        try:
            self._backward(node, upstream, wanted)
        except Undifferentiable as whole:
            if len(wanted) == 1:
                self._refuse(node, wanted, str(whole))
                return
            for index in sorted(wanted):  # what fails for one input may be known for another
                try:
                    self._backward(node, upstream, frozenset({index}))
                except Undifferentiable as error:
                    self._refuse(node, {index}, str(error))

    def _backward(self, node: ir.Node, upstream: Sequence[Term | None], wanted: frozenset[int]) -> None:
        spec = spec_of(node)
        if spec is None or spec.vjp is None:
            raise Undifferentiable(self._refused.get(node, "no rule for this operator"))
        if spec.vjp is flat:
            return
        gradients = spec.vjp(node, Tape(node, self._emitter, upstream, wanted))
        for index, gradient in gradients.items():
            value = node.inputs[index]
            if index in wanted and value is not None:
                self._arrived.setdefault(value, []).append(gradient)

    def _branches(self, node: ir.Node, upstream: Sequence[Term | None], inside: Sequence[ir.Value]) -> None:
        """An If over the same condition, whose branches compute those of the original again, and go back.

        Values that a branch does not read get zeros from it.
        """
        attributes = {}
        for name, attribute in node.attributes.items():
            emitter = self._emitter.copied(attribute.as_graph())
            copy = emitter.graph
            reach = dict(self._reach)
            spread(copy, reach)
            walk = Walk(emitter, reach, {})
            pairs = zip(copy.outputs, upstream, strict=True)
            walk.back(copy, {v: Term(emitter, t.value, t.dtype) for v, t in pairs if t is not None})
            for key, why in walk.frozen.items():
                self.frozen.setdefault(key, why)
            made = []
            for value in inside:
                own = Term(emitter, value, self._emitter.dtype(value) or ir.DataType.FLOAT)
                gradient = walk.total(value)
                zeros = own.like(0.0).expand(own.shape()) if gradient is None else gradient
                made.append(zeros.then("Identity").value)
            copy.outputs[:] = made
            sweep(copy)
            attributes[name] = copy
        outputs = self._emitter.emit("If", node.inputs, attributes, len(inside))
        for value, output in zip(inside, outputs, strict=True):
            dtype = self._emitter.dtype(value) or ir.DataType.FLOAT
            self._arrived.setdefault(value, []).append(Term(self._emitter, output, dtype))

    def _refuse(self, node: ir.Node, wanted: Iterable[int], why: str) -> None:
        values = [node.inputs[index] for index in wanted]
        self._freeze(node, {name for v in values if v is not None for name in self._reach[v]}, why)

    def _freeze(self, node: ir.Node, names: Iterable[str], why: str) -> None:
        where = node.name or next((output.name for output in node.outputs if output.name), "")
        for name in names:
            self.frozen.setdefault(name, f"{node.op_type} {shown(where)}: {why}")
