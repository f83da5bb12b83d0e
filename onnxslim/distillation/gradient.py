"""Reverse-mode gradients as a graph rewrite: a training step is one ONNX model that any runtime runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.distillation import _prepare
from onnxslim.distillation._facts import Refined
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.model.tensors import shown
from onnxslim.ops.adjoint import Tape, Undifferentiable, flat
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import Array, Dims
from onnxslim.ops.terms import Term

__all__ = ["Gradient", "differentiate"]


@dataclass(frozen=True)
class Gradient:
    """A model of one training step.

    Attributes:
        model: from the original's inputs and the trained weights to the loss, what was to be kept, and the
            gradients, in this order.
        gradients: trained name -> name of the output that is its gradient.
        frozen: name without an exact gradient -> why.
    """

    model: ir.Model
    gradients: Mapping[str, str]
    frozen: Mapping[str, str]


def differentiate(model: ir.Model, loss: str, wrt: Sequence[str], *, keep: Sequence[str] = ()) -> Gradient:
    """The gradient of a loss, as nodes behind the model's own.

    Args:
        model: stays as it is.
        loss: a float value of the main graph with one element.
        wrt: names of initializers, which become inputs of the same name, type and shape; of inputs; or of
            values in between.
        keep: further values to be outputs.

    Returns:
        The step, and why some names got no gradient: no path to the loss, or an operator without an exact
        rule on one of their paths.

    Raises:
        ModelError: the model cannot be brought to the operator set that gradients are written in.
        OptionError: a name is unknown, or the loss is no float with one element.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 18]>
        ...     g (float[3] x) => (float loss) <float[3] w = {1, 2, 3}>
        ...     { y = Mul(x, w)  loss = ReduceSum<keepdims = 0>(y) }'''))
        >>> step = differentiate(model, "loss", ["w"])
        >>> [value.name for value in step.model.graph.inputs], dict(step.gradients)
        (['x', 'w'], {'w': 'w_gradient'})
    """
    step = _prepare.prepared(model, loss, wrt, keep)
    return _Reverse(step, loss, tuple(dict.fromkeys(wrt))).run(keep)


@dataclass
class _Emitter:
    """Appends nodes to the graph of a step."""

    model: ir.Model
    facts: Refined
    stored: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = field(default_factory=dict)

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any],
        outputs: int = 1,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name="")
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        for output in node.outputs:
            output.name = self.name()
        self.model.graph.append(node)
        return node.outputs

    def store(self, array: Array) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.stored:
            self.stored[key] = edit.add_initializer(self.model.graph, array, "constant")
        return self.stored[key]

    def name(self) -> str:
        return edit.unique_name(self.model, "adjoint")

    def shape(self, value: ir.Value) -> Dims | None:
        return self.facts.shape(value)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        return self.facts.dtype(value)

    def constant(self, value: ir.Value) -> Array | None:
        return self.facts.constant(value)


class _Reverse:
    """One walk from the loss back to what is trained."""

    def __init__(self, step: _prepare.Step, loss: str, wrt: Sequence[str]) -> None:
        self._step, self._wrt = step, wrt
        self._loss = step.values[loss]
        self._facts = Refined(step.model)
        self._emitter = _Emitter(step.model, self._facts)
        self._arrived: dict[ir.Value, list[Term]] = {}
        self._frozen: dict[str, str] = {}
        self._reach = _prepare.reach(step)

    def run(self, keep: Sequence[str]) -> Gradient:
        nodes = list(self._step.model.graph)
        self._arrived[self._loss] = [self._seed()]
        for node in reversed(nodes):
            self._visit(node)
        found: dict[str, ir.Value] = {}
        for name in self._wrt:
            gradient = self._total(self._step.values[name])
            if gradient is None:
                self._frozen.setdefault(name, "the loss does not depend on it")
            elif name not in self._frozen:
                found[name] = self._named(gradient, name)
        return self._finish(found, keep)

    def _seed(self) -> Term:
        dtype, dims = self._facts.dtype(self._loss), self._facts.shape(self._loss)
        if dtype is None or not dtype.is_floating_point():
            raise OptionError(f"the loss {shown(self._loss.name)} is no float", hint="name a scalar float")
        if dims is None or any(d != 1 for d in dims):
            what = f"the loss {shown(self._loss.name)} does not have one element"
            raise OptionError(what, hint="reduce it to one, by ReduceMean for instance")
        ones = np.ones([1] * len(dims), dtype.numpy())
        return Term(self._emitter, self._emitter.store(ones), dtype)

    def _visit(self, node: ir.Node) -> None:
        upstream = [self._total(output) for output in node.outputs]
        if all(term is None for term in upstream):
            return
        wanted = frozenset(
            index for index, value in enumerate(node.inputs) if value is not None and self._reach.get(value)
        )
        captured = {name for value in _prepare.captured(node) for name in self._reach.get(value, ())}
        if captured:
            self._freeze(node, captured, "it reads them inside of a graph of its own")
        if not wanted:
            return
        try:
            self._backward(node, upstream, wanted)
        except Undifferentiable as one:
            if len(wanted) == 1:
                self._refuse(node, wanted, str(one))
                return
            for index in sorted(wanted):  # what fails for one input may be known for another
                try:
                    self._backward(node, upstream, frozenset({index}))
                except Undifferentiable as error:
                    self._refuse(node, {index}, str(error))

    def _backward(self, node: ir.Node, upstream: Sequence[Term | None], wanted: frozenset[int]) -> None:
        spec = spec_of(node)
        if spec is None or spec.vjp is None:
            raise Undifferentiable("no rule for this operator")
        if spec.vjp is flat:
            return
        gradients = spec.vjp(node, Tape(node, self._emitter, upstream, wanted))
        for index, gradient in gradients.items():
            value = node.inputs[index]
            if index in wanted and value is not None:
                self._arrived.setdefault(value, []).append(gradient)

    def _total(self, value: ir.Value) -> Term | None:
        """What has arrived from all consumers, added up once."""
        terms = self._arrived.get(value)
        if not terms:
            return None
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        self._arrived[value] = [total]
        return total

    def _refuse(self, node: ir.Node, wanted: Iterable[int], why: str) -> None:
        values = [node.inputs[index] for index in wanted]
        self._freeze(node, {name for v in values if v is not None for name in self._reach[v]}, why)

    def _freeze(self, node: ir.Node, names: Iterable[str], why: str) -> None:
        where = node.name or next((output.name for output in node.outputs if output.name), "")
        for name in names:
            self._frozen.setdefault(name, f"{node.op_type} {shown(where)}: {why}")

    def _named(self, gradient: Term, name: str) -> ir.Value:
        """A value of its own, since one gradient may be that of two names."""
        value = gradient.then("Identity").value
        value.name = edit.unique_name(self._step.model, f"{name}_gradient")
        value.type = ir.TensorType(gradient.dtype)
        dims = self._facts.shape(self._step.values[name])
        value.shape = None if dims is None else ir.Shape(dims)
        return value

    def _finish(self, found: Mapping[str, ir.Value], keep: Sequence[str]) -> Gradient:
        names = dict.fromkeys([self._loss.name or "", *keep])
        outputs = [self._step.values[name] for name in names]
        for value in outputs:
            value.type = value.type or _tensor_type(self._facts.dtype(value))
            dims = self._facts.shape(value)
            value.shape = value.shape or (None if dims is None else ir.Shape(dims))
        _prepare.finish(self._step, [*outputs, *found.values()], [n for n in self._wrt if n in found])
        return Gradient(self._step.model, {name: v.name or "" for name, v in found.items()}, self._frozen)


def _tensor_type(dtype: ir.DataType | None) -> ir.TypeProtocol | None:
    return None if dtype is None else ir.TensorType(dtype)
