"""How far a student is from its teacher: the terms of the loss, as numbers and as nodes of a graph.

``kl``             between the classes of an output, both softened by the temperature T: times T^2, so that
                   its gradient is as large as without; in front of a final Softmax, where it saturates
``mse``            mean squared error, over the variance of the teacher's values
``cross-entropy``  of the classes, against labels
``own``            whatever a graph of the user's says, see :mod:`onnxslim.distillation.own_loss`

Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.blocks import find_blocks
from onnxslim.analysis.extract import named_values
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model import edit
from onnxslim.ops.activation import is_softmax, softmax_axis
from onnxslim.ops.registry import spec_of

__all__ = [
    "LABELS",
    "TEMPERATURE",
    "Kind",
    "Term",
    "append_loss",
    "log_softmax",
    "plan_terms",
    "shares",
    "target_name",
    "target_of",
]

Array = npt.NDArray[Any]
Kind = Literal["kl", "mse", "cross-entropy", "own"]

TEMPERATURE = 3.0
LABELS = "labels"  # what is fed beside the teacher's values, where there are labels: one class of each row
_INSIDE = 6  # values inside the model that are compared, at most
_INSIDE_SHARE = 1.0  # of all of them together, where the outputs have 1
_LEAST = 1e-3  # a term that starts below counts as if it started here


@dataclass(frozen=True)
class Term:
    """One term of the loss.

    Attributes:
        kind: how the two values are compared.
        value: the student's, by name.
        target: the teacher's.
        axis: of the classes.
        inside: whether the value lies inside the model, and is no output or what stands in front of one.
    """

    kind: Kind
    value: str
    target: str
    axis: int = -1
    inside: bool = False

    @property
    def name(self) -> str:
        """What reports call it."""
        return "own loss" if self.kind == "own" else f"{self.kind} of {self.value}"

    def measure(self, student: Array, teacher: Array, variance: float = 1.0) -> float:
        """The term in float64, a mean over rows; ``teacher`` holds the labels of a cross-entropy.

        Example:
            >>> one = np.array([[0.0, 0.0]]), np.array([[6.0, 0.0]])
            >>> Term("mse", "y", "y").measure(*one, variance=9.0)
            2.0
            >>> round(Term("kl", "y", "y").measure(*one), 4)  # 9 * sum p log(p / (1 / 2)), p = softmax(2, 0)
            2.9503
        """
        found = np.moveaxis(np.asarray(student, np.float64), self.axis, -1) if self.kind != "mse" else student
        if self.kind == "mse":
            difference = np.asarray(student, np.float64) - np.asarray(teacher, np.float64)
            return float(np.mean(difference**2) / variance)
        if self.kind == "cross-entropy":
            logs = log_softmax(found).reshape(-1, found.shape[-1])
            return -float(np.mean(np.take_along_axis(logs, np.ravel(teacher)[:, None], 1)))
        expected = log_softmax(np.moveaxis(np.asarray(teacher, np.float64), self.axis, -1) / TEMPERATURE)
        apart = expected - log_softmax(found / TEMPERATURE)
        return float(np.mean(np.sum(np.exp(expected) * apart, -1)) * TEMPERATURE**2)


def target_name(term: Term) -> str:
    """The input of a training step that carries what the teacher says."""
    return target_of(LABELS if term.kind == "cross-entropy" else term.target)


def target_of(name: str) -> str:
    """The same for a value of the teacher, or for the labels."""
    return f"teacher/{name}"


def log_softmax(scores: Array) -> Array:
    """Logarithms of the probabilities along the last axis."""
    shifted = scores - scores.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), -1, keepdims=True)))


def plan_terms(student: ir.Model, teacher: ir.Model, *, labelled: bool = False) -> list[Term]:
    """What to compare: every output of floats, and at most six values inside both models.

    Those inside are sums of residual blocks, of the same name and shape in both.

    Args:
        labelled: there is a label for each row of the first output.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,9] x, float[9,2] w) => (float[1,2] y) { m = MatMul(x, w) y = Softmax(m) }'''))
        >>> [term.name for term in plan_terms(model, model)]
        ['kl of m']
    """
    shapes, others = infer(student), infer(teacher)
    known = {value.name: value for value in teacher.graph.outputs}
    terms: list[Term] = []
    for output in student.graph.outputs:
        other = known.get(output.name)
        if other is None or shapes.dtype(output) != ir.DataType.FLOAT or 0 in (shapes.shape(output) or ()):
            continue
        (value, axis), (target, _) = _scores(output), _scores(other)
        classes = axis if axis is not None else (-1 if _is_product(value) else None)
        if classes is not None:
            terms.append(Term("kl", value.name or "", target.name or "", classes))
            if labelled and len(terms) == 1:
                terms.append(Term("cross-entropy", value.name or "", target.name or "", classes))
        if axis is None:
            terms.append(Term("mse", value.name or "", target.name or ""))
    taken = {term.value for term in terms}
    return [*terms, *_inside(student, teacher, shapes, others, taken)]


def _scores(output: ir.Value) -> tuple[ir.Value, int | None]:
    """What stands in front of a final softmax, and the axis of its classes; else the output."""
    value = output
    while (node := value.producer()) is not None and node.inputs:
        spec = spec_of(node)
        if is_softmax(node) and node.inputs[0] is not None:
            return node.inputs[0], softmax_axis(node)
        passed = None if spec is None or spec.identity_input is None else node.inputs[0]
        if passed is None or len(node.inputs) != 1:
            break
        value = passed
    return output, None


def _is_product(value: ir.Value) -> bool:
    """Whether a product of matrices gives it: scores of classes, perhaps."""
    node = value.producer()
    spec = None if node is None else spec_of(node)
    return node is not None and spec is not None and spec.linear is not None and spec.macs is not None


def _inside(
    student: ir.Model, teacher: ir.Model, shapes: Shapes, others: Shapes, taken: set[str]
) -> list[Term]:
    """Evenly spaced sums of residual blocks that both models have."""
    values = named_values(teacher.graph)
    found = []
    for block in find_blocks(student):
        other = values.get(block.name)
        if block.name in taken or other is None or other.producer() is None:
            continue
        if _tail(shapes, block.output) == _tail(others, other):
            found.append(Term("mse", block.name, block.name, inside=True))
    count = min(len(found), _INSIDE)
    return [found[(i + 1) * len(found) // count - 1] for i in range(count)]


def _tail(shapes: Shapes, value: ir.Value) -> tuple[object, ...] | None:
    shape = shapes.shape(value)
    return None if shape is None else tuple(shape[1:])


def shares(terms: Sequence[Term], start: Mapping[str, float], labels: float = 1.0) -> dict[str, float]:
    """What each term is multiplied with, so that each kind starts with the same share of the loss.

    A loss of the user's own stays as it is, and what labels add to it is weighed against that.

    Args:
        start: what the student has at first, by the term's name.
        labels: how much more the labels weigh than the rest.

    Example:
        >>> terms = [Term("kl", "y", "y"), Term("mse", "r", "r", inside=True)]
        >>> shares(terms, {"kl of y": 4.0, "mse of r": 0.5})
        {'kl of y': 0.25, 'mse of r': 2.0}
    """
    inside = sum(term.inside for term in terms)
    outside = len(terms) - inside
    own = any(term.kind == "own" for term in terms)
    found = {}
    for term in terms:
        share = _INSIDE_SHARE / inside if term.inside else 1 / outside
        found[term.name] = 1.0 if own else share / max(start[term.name], _LEAST)
        found[term.name] *= labels if term.kind == "cross-entropy" else 1.0
    return found


def append_loss(
    model: ir.Model,
    terms: Sequence[Term],
    weights: Mapping[str, float],
    variances: Mapping[str, float],
    own: Appends | None = None,
) -> str:
    """Append the weighted sum of the terms to a model, whose teacher's values become inputs.

    Args:
        own: what appends the term that is the user's.

    Returns:
        The name of the loss, a number, which is the only output.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model(
        ...     '<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }'))
        >>> append_loss(model, [Term("mse", "y", "y")], {"mse of y": 1.0}, {"mse of y": 1.0})
        'loss'
        >>> [value.name for value in model.graph.inputs]
        ['x', 'teacher/y']
    """
    values = {**named_values(model.graph)}
    shapes = infer(model)
    graph = _Graph(model)
    given: dict[str, ir.Value] = {}
    parts = []
    for term in terms:
        if term.kind == "own":
            assert own is not None
            parts.append(graph.times(graph.scalar(own.append(model, values, given)), weights[term.name]))
            continue
        value = values[term.value]
        shape = shapes.shape(value)
        key = target_name(term)
        if key not in given:
            label = term.kind == "cross-entropy"
            dtype = ir.DataType.INT64 if label else ir.DataType.FLOAT
            sizes = [None] if label else shape
            known = None if sizes is None else ir.Shape(sizes)
            given[key] = ir.Value(name=key, shape=known, type=ir.TensorType(dtype))
            model.graph.inputs.append(given[key])
        factor = weights[term.name] / (variances.get(term.name, 1.0) if term.kind == "mse" else 1.0)
        parts.append(graph.times(graph.term(term, value, given[key], shape), factor))
    loss = parts[0]
    for part in parts[1:]:
        loss = graph.add("Add", loss, part)
    loss = graph.scalar(loss)
    loss.name = edit.unique_name(model, "loss")
    loss.shape, loss.type = ir.Shape(()), ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs.clear()
    model.graph.outputs.append(loss)
    return loss.name


class Appends(Protocol):
    """Adds a term to a model."""

    def append(self, model: ir.Model, values: Mapping[str, ir.Value], given: dict[str, ir.Value]) -> ir.Value:
        """The term; ``given`` are the inputs that there are for what the teacher says."""


class _Graph:
    """Adds nodes at the end of a model."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    def add(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = edit.new_node(op_type, list(inputs), attributes)
        node.outputs[0].name = edit.unique_name(self._model, "loss_part")
        self._model.graph.append(node)
        return node.outputs[0]

    def number(self, number: float) -> ir.Value:
        return edit.add_initializer(self._model.graph, np.array(number, np.float32), "loss_number")

    def scalar(self, value: ir.Value) -> ir.Value:
        """The same number, which is known to be one where the rank of what was reduced is not."""
        return self.add(
            "Reshape", value, edit.add_initializer(self._model.graph, np.zeros(0, np.int64), "loss_shape")
        )

    def times(self, value: ir.Value, factor: float) -> ir.Value:
        return self.add("Mul", value, self.number(factor))

    def term(
        self, term: Term, value: ir.Value, teacher: ir.Value, shape: Sequence[object] | None
    ) -> ir.Value:
        if term.kind == "mse":
            difference = self.add("Sub", value, teacher)
            return self.add("ReduceMean", self.add("Mul", difference, difference), keepdims=0)
        classes = None if shape is None else shape[term.axis]
        if not isinstance(classes, int):
            raise ValueError(f"the number of classes of {term.value} is not known")
        if term.kind == "cross-entropy":
            depth = edit.add_initializer(self._model.graph, np.array(classes, np.int64), "loss_classes")
            ends = edit.add_initializer(self._model.graph, np.array([0, 1], np.float32), "loss_ends")
            share = self.add("OneHot", teacher, depth, ends, axis=-1)
            logs = self.add("LogSoftmax", value, axis=term.axis)
            mean = self.add("ReduceMean", self.add("Mul", share, logs), keepdims=0)
            return self.times(mean, -float(classes))
        soft, expected = (self.times(each, 1 / TEMPERATURE) for each in (value, teacher))
        logs, known = (self.add("LogSoftmax", each, axis=term.axis) for each in (soft, expected))
        share = self.add("Softmax", expected, axis=term.axis)
        apart = self.add("Mul", share, self.add("Sub", known, logs))
        return self.times(self.add("ReduceMean", apart, keepdims=0), classes * TEMPERATURE**2)
