"""Reverse-mode gradients as a graph rewrite: a training step is one ONNX model that any runtime runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim._ir import ir
from onnxslim.distillation import _prepare
from onnxslim.distillation._emitter import Emitter
from onnxslim.distillation._expand import expand
from onnxslim.distillation._facts import Refined
from onnxslim.distillation._walk import Walk
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.model.tensors import shown
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
    refused = expand(step, step.values[loss])
    facts = Refined(step.model)
    emitter = Emitter(step.model, facts, step.model.graph)
    walk = Walk(emitter, _prepare.reach(step), refused)
    walk.back(step.model.graph, {step.values[loss]: _seed(step.values[loss], emitter)})
    found: dict[str, ir.Value] = {}
    for name in step.wrt:
        gradient = walk.total(step.values[name])
        if gradient is None:
            walk.frozen.setdefault(name, "the loss does not depend on it")
        elif name not in walk.frozen:
            found[name] = _named(gradient, name, step, facts)
    outputs = [_declared(step.values[name], facts) for name in dict.fromkeys([loss, *keep])]
    _prepare.finish(step, [*outputs, *found.values()], list(found))
    return Gradient(step.model, {name: value.name or "" for name, value in found.items()}, walk.frozen)


def _seed(loss: ir.Value, emitter: Emitter) -> Term:
    dtype, dims = emitter.dtype(loss), emitter.shape(loss)
    if dtype is None or not dtype.is_floating_point():
        raise OptionError(f"the loss {shown(loss.name)} is no float", hint="name a scalar float")
    if dims is None or any(d != 1 for d in dims):
        what = f"the loss {shown(loss.name)} is not known to have one element"
        raise OptionError(what, hint="reduce it to one, by ReduceMean for instance")
    return Term(emitter, emitter.store(np.ones([1] * len(dims), dtype.numpy())), dtype)


def _named(gradient: Term, name: str, step: _prepare.Step, facts: Refined) -> ir.Value:
    """A value of its own, since one gradient may be that of two names."""
    value = gradient.then("Identity").value
    value.name = edit.unique_name(step.model, f"{name}_gradient")
    dims = facts.shape(step.values[name])
    value.shape = None if dims is None else ir.Shape(dims)
    value.type = ir.TensorType(gradient.dtype)
    return value


def _declared(value: ir.Value, facts: Refined) -> ir.Value:
    """With its type and shape, which an output has to have."""
    dtype, dims = facts.dtype(value), facts.shape(value)
    value.type = value.type or (None if dtype is None else ir.TensorType(dtype))
    value.shape = value.shape or (None if dims is None else ir.Shape(dims))
    return value
