"""A loss of the user's own: a small ONNX graph over the outputs of student and teacher.

Its inputs are named ``student.NAME`` and ``teacher.NAME`` after outputs, and ``labels`` after the labels of
the data (int64, one after the other); its only output is one float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import inline_functions, ir
from onnxslim.distillation.gradient import differentiate
from onnxslim.distillation.losses import LABELS, Term, target_of
from onnxslim.errors import ModelError, OptionError
from onnxslim.model import edit
from onnxslim.model.tensors import shown
from onnxslim.passes.raise_opset import RaiseOpset

__all__ = ["OwnLoss", "read_loss"]

Array = npt.NDArray[Any]

_STUDENT, _TEACHER = "student.", "teacher."
_DOMAIN = "onnxslim.loss"
_OPSET = 18  # in which gradients are written
_FEW = 8  # names that an error lists


@dataclass(frozen=True)
class OwnLoss:
    """A loss that was checked.

    Attributes:
        model: the graph.
        student, teacher: the outputs that it reads.
        labelled: whether it reads labels.
    """

    model: ir.Model
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    labelled: bool

    @property
    def opset(self) -> int:
        """The oldest that a model has to have for it."""
        return max(_OPSET, self.model.opset_imports.get("", 0))

    @property
    def term(self) -> Term:
        """How the training knows it."""
        return Term("own", self.student[0], (self.teacher or self.student)[0])

    def feed(
        self, student: Mapping[str, Array], teacher: Mapping[str, Array], labels: Array | None
    ) -> dict[str, Array]:
        """Its inputs."""
        found = {f"{_STUDENT}{name}": student[name] for name in self.student}
        found |= {f"{_TEACHER}{name}": teacher[name] for name in self.teacher}
        return (
            found if not self.labelled or labels is None else {**found, LABELS: np.asarray(labels, np.int64)}
        )

    def append(self, model: ir.Model, values: Mapping[str, ir.Value], given: dict[str, ir.Value]) -> ir.Value:
        """Add its nodes to a model, of at least its :attr:`opset`.

        Args:
            values: of the model, by name.
            given: inputs of the model that carry what the teacher says, by name; missing ones are added.

        Returns:
            the loss.
        """
        own = edit.copy_of(self.model)
        RaiseOpset(model.opset_imports.get("", self.opset))(own)
        inputs = []
        for value in own.graph.inputs:
            side, _, name = (value.name or "").partition(".")
            if f"{side}." == _STUDENT:
                inputs.append(values[name])
                continue
            key = target_of(name or LABELS)
            if key not in given:
                given[key] = ir.Value(name=key, shape=None, type=value.type)
                if name and values.get(name) is not None:
                    given[key].shape = values[name].shape
                model.graph.inputs.append(given[key])
            inputs.append(given[key])
        function = _function(own)
        model.functions[function.identifier()] = function
        model.opset_imports[_DOMAIN] = 1
        call = ir.Node(_DOMAIN, function.name, inputs, num_outputs=1, name="")
        call.outputs[0].name = edit.unique_name(model, "own_loss")
        model.graph.append(call)
        model.graph.outputs.append(call.outputs[0])
        inline_functions(model)
        model.opset_imports.pop(_DOMAIN, None)
        edit.know_names(model)
        found = model.graph.outputs[-1]
        del model.graph.outputs[-1]
        return found


def _function(own: ir.Model) -> ir.Function:
    """A function has no initializers."""
    graph = own.graph
    for name, value in list(graph.initializers.items()):
        content = edit.constant_value(value)
        assert content is not None
        constant = edit.new_node("Constant", [], {"value": edit.tensor_from(content, name)})
        constant.outputs[0].name = edit.unique_name(own, name)
        edit.replace_uses(value, constant.outputs[0])
        del graph.initializers[name]
        if len(graph):
            graph.insert_before(graph[0], constant)
        else:
            graph.append(constant)
    return ir.Function(_DOMAIN, "Loss", graph=graph, attributes=())


def read_loss(model: ir.Model, student: ir.Model, teacher: ir.Model) -> OwnLoss:
    """Check a loss against the models whose outputs it reads.

    Raises:
        OptionError: a name, a type or a shape does not fit, it is no single float, or it has no gradient.

    Example:
        >>> import onnx.parser
        >>> net = ir.from_proto(onnx.parser.parse_model(
        ...     '<ir_version: 8, opset_import: ["" : 18]> g (float[n,2] x) => (float[n,2] y) { y = Neg(x) }'))
        >>> loss = ir.from_proto(onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 18]>
        ...     g (float[n,2] a, float[n,2] b) => (float l)
        ...     { d = Sub(a, b)  s = Abs(d)  l = ReduceMean<keepdims = 0>(s) }'''))
        >>> loss.graph.inputs[0].name, loss.graph.inputs[1].name = "student.y", "teacher.y"
        >>> read_loss(loss, net, net).student
        ('y',)
    """
    own = edit.copy_of(model)
    if own.functions:
        inline_functions(own)
        edit.know_names(own)
    sides: dict[str, list[str]] = {_STUDENT: [], _TEACHER: []}
    for value in own.graph.inputs:
        if value.name == LABELS:
            _check(value, None)
            continue
        side, source = (_STUDENT, student) if (value.name or "").startswith(_STUDENT) else (_TEACHER, teacher)
        outputs = {output.name: output for output in source.graph.outputs}
        name = (value.name or "").removeprefix(side)
        if not (value.name or "").startswith(side) or name not in outputs:
            known = [f"{_STUDENT}{each.name}" for each in student.graph.outputs]
            known += [f"{_TEACHER}{each.name}" for each in teacher.graph.outputs]
            near = get_close_matches(value.name or "", [*known, LABELS], 1)
            raise OptionError(
                f"the loss reads {shown(value.name)}, which is no output of the models",
                hint=f"did you mean {shown(near[0])}?"
                if near
                else f"there are {', '.join(map(shown, known[:_FEW]))}",
            )
        _check(value, outputs[name])
        sides[side].append(name)
    if not sides[_STUDENT]:
        raise OptionError("the loss reads no output of the student", hint="name an input student.OUTPUT")
    _check_gradient(own, [f"{_STUDENT}{name}" for name in sides[_STUDENT]])
    labelled = any(value.name == LABELS for value in own.graph.inputs)
    return OwnLoss(own, tuple(sides[_STUDENT]), tuple(sides[_TEACHER]), labelled)


def _check(value: ir.Value, output: ir.Value | None) -> None:
    """Whether an input of the loss can take an output, or labels."""
    expected = ir.DataType.INT64 if output is None else output.dtype or value.dtype
    if value.dtype != expected:
        raise OptionError(
            f"the loss takes {shown(value.name)} as {value.dtype}, but it is {expected}",
            hint="declare the type that the output has",
        )
    own = None if value.shape is None else list(value.shape)
    other = [None] if output is None else None if output.shape is None else list(output.shape)
    if own is None or other is None:
        return
    differ = any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(own, other, strict=False)
    )
    if len(own) != len(other) or differ:
        raise OptionError(
            f"the loss takes {shown(value.name)} in the shape {value.shape}, but it has another one",
            where=None if output is None else f"output {shown(output.name)}, {output.shape}",
            hint="declare the shape that the output has",
        )


def _check_gradient(own: ir.Model, names: list[str]) -> None:
    if len(own.graph.outputs) != 1:
        raise OptionError(f"a loss has one output, this one has {len(own.graph.outputs)}")
    try:
        found = differentiate(own, own.graph.outputs[0].name or "", names)
    except ModelError as error:
        raise OptionError(f"the loss has no gradient: {error.what}", hint=error.hint) from error
    for name, why in found.frozen.items():
        raise OptionError(f"the loss has no gradient by {shown(name)}", where=why, hint="use other operators")
