"""The weights of a student: where the floats that are trained stand in its graph, and how each is stored.

A weight is the first value in floats that is computed from stored tensors alone and, moved at most, read by
something that depends on the inputs: the stored tensor itself, or what decodes it.  Where it is not known how
it is decoded, the floats that it is decoded from are the weights: the tables of a codebook.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.constants import constant_sources
from onnxslim.analysis.extract import named_values
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.distillation.decoding import decoded, is_float
from onnxslim.distillation.forms import Coded, Form, Plain
from onnxslim.distillation.quantizers import StepSize, find_step_sizes, scales_of
from onnxslim.distillation.sums import Summed
from onnxslim.measure.metrics import cosine
from onnxslim.model import edit
from onnxslim.model.tensors import shown
from onnxslim.ops.attributes import int_of
from onnxslim.ops.registry import is_cast, is_dequantize, spec_of
from onnxslim.passes.remove_dead_code import RemoveDeadCode
from onnxslim.runtime.client import Worker

__all__ = ["Student", "find_student"]

_NARROW = (ir.DataType.INT8, ir.DataType.UINT8)
_ROWS = 1 << 14  # of a weight that its kernel decodes
_BIAS = 5  # the input of such a kernel that is added to the product
_ALIKE = 0.5  # cosine; signs of normally distributed weights have 0.8


@dataclass
class Student:
    """A model and what can be trained in it.

    Attributes:
        model: as it is stored.
        graph: the same with each weight as an initializer of floats.
        forms: how each is stored, by the name of that initializer.
        frozen: what is not trained -> why.
    """

    model: ir.Model
    graph: ir.Model
    forms: dict[str, Form] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)

    def stored(self) -> ir.Model:
        """The model with the weights as they are now."""
        model = edit.copy_of(self.model)
        for form in self.forms.values():
            form.store(model)
        return model


def find_student(worker: Worker, model: ir.Model, teacher: ir.Model | None = None) -> Student:
    """The weights of a model; single numbers are none.

    Args:
        worker: where stored weights are decoded.
        teacher: what it was made of: codes remember the floats that they were rounded from.
    """
    graph = edit.copy_of(model)
    student = Student(model, graph)
    for node in list(graph.graph):
        _unpack(graph, node)
    for value in _integers(graph):
        student.frozen[value.name or ""] = "integers that a kernel reads as they are"
    steps, refused = find_step_sizes(graph)
    student.frozen.update(refused)
    moving = {name: step for step in steps.values() for name in (step.name, *step.products)}
    scales, constant = scales_of(graph), constant_sources(graph)
    for value in list(_weights(graph)):
        name = value.name or ""
        content = edit.constant_value(value)
        if value in scales:
            continue
        if content is not None:
            if content.size > 1:
                _add(student, value, Plain(name, np.array(content, np.float32)))
            continue
        form = decoded(worker, graph, value, moving)
        if isinstance(form, Coded | Summed) and teacher is not None:
            original = _original(value, teacher)
            if original is not None and _alike(original, form.value()):
                form.remember(original)
        if isinstance(form, str):
            behind = {} if moving.keys() & {each.name for each in constant[value]} else _floats(value)
            for part, own in behind.items():
                if (part.name or "") not in student.forms:
                    _add(student, part, own)
            if not behind:
                student.frozen[name] = form
        else:
            _add(student, value, form)
    _add_steps(student, steps.values(), moving)
    RemoveDeadCode()(graph)  # what decoded the weights
    return student


def _add_steps(student: Student, steps: Iterable[StepSize], moving: Mapping[str, StepSize]) -> None:
    """Add the scales of activations that all weights that are computed from them can follow."""
    for value, sources in constant_sources(student.graph).items():
        for source in sources:
            step, name = moving.get(source.name or ""), value.name or ""
            if step is not None and name in student.frozen:
                student.frozen[step.name] = f"{shown(name)}, which is not trained, depends on it"
    trained = {step.name: step for step in steps if step.name not in student.frozen}
    for form in student.forms.values():
        if isinstance(form, Coded | Summed) and all(form.follows is not step for step in trained.values()):
            form.follows = None
    student.forms.update(trained)


def _add(student: Student, value: ir.Value, form: Form) -> None:
    name = value.name or ""
    content = form.value()
    if not np.isfinite(content).all():
        student.frozen[name] = "it is not finite"
        return
    if value.producer() is not None:
        edit.store_constant(student.graph.graph, value, content.copy())
    student.forms[name] = form


def _unpack(model: ir.Model, node: ir.Node) -> None:
    """Let a kernel that decodes its own weight decode it for a product of floats: its product with ones."""
    spec = spec_of(node)
    rows = int_of(node, "K", 0)
    packed = spec is not None and spec.quant is not None and spec.quant.packed is not None
    if (
        not packed
        or not 0 < rows <= _ROWS
        or len(node.inputs) < 3
        or edit.constant_value(node.inputs[1]) is None
    ):
        return
    shape = edit.add_initializer(model.graph, np.array([rows, rows]), "shape")
    zeros = edit.new_node("ConstantOfShape", [shape])
    ones = edit.new_node("EyeLike", [zeros.outputs[0]], {"dtype": ir.DataType.FLOAT})
    exact = {name: a for name, a in node.attributes.items() if name != "accuracy_level"}
    decoding = ir.Node(
        node.domain,
        node.op_type,
        [ones.outputs[0], *node.inputs[1:_BIAS]],
        exact.values(),
        name="",
        num_outputs=1,
    )
    told = edit.new_node("Cast", [decoding.outputs[0]], {"to": ir.DataType.FLOAT})  # its type is inferred
    product = edit.new_node("MatMul", [node.inputs[0], told.outputs[0]])
    made = [zeros, ones, decoding, told, product]
    if len(node.inputs) > _BIAS and node.inputs[_BIAS] is not None:
        made.append(edit.new_node("Add", [product.outputs[0], node.inputs[_BIAS]]))
    for each in made:
        each.outputs[0].name = edit.unique_name(model, "unpacked")
    model.graph.insert_before(node, made)
    old, new = node.outputs[0], made[-1].outputs[0]
    named = not old.is_graph_output()
    edit.replace_uses(old, new)
    if named:  # by its name the teacher's product is found
        old.name, new.name = new.name, old.name
    edit.remove_node(node)


def _integers(model: ir.Model) -> Iterator[ir.Value]:
    """Stored weights of 8 bits or fewer that are multiplied as they are."""
    constant = constant_sources(model)
    for node in model.graph:
        spec = spec_of(node)
        if spec is not None and spec.macs is not None and all(v not in constant for v in node.outputs):
            for value in node.inputs:
                if value is not None and value in constant and value.dtype in _NARROW and not _small(value):
                    yield value


def _floats(value: ir.Value) -> dict[ir.Value, Plain]:
    """The stored floats that a weight is computed from, as tables of values behind codes; none where a
    quantizer is among what computes it."""
    found: dict[ir.Value, Plain] = {}
    waiting, seen = [value], set[ir.Value]()
    while waiting:
        current = waiting.pop()
        node = current.producer()
        if current in seen:
            continue
        seen.add(current)
        if edit.constant_value(current) is not None:
            if (plain := _plain(current)) is not None:
                found[current] = plain
        elif node is None or is_dequantize(node):
            return {}
        elif is_cast(node) and (plain := _plain(current, node.inputs[0])) is not None:
            found[current] = plain
        else:
            waiting += [each for each in node.inputs if each is not None]
    return found


def _plain(value: ir.Value, stored: ir.Value | None = None) -> Plain | None:
    """A value in float32 as a weight, if it is more than a number; ``stored`` is what it is cast from."""
    source = value if stored is None else stored
    content = edit.constant_value(source)
    if content is None or content.size < 2 or not is_float(content):
        return None
    if stored is None and content.dtype != np.float32:
        return None
    return Plain(source.name or "", np.array(content, np.float32), content.dtype)


def _small(value: ir.Value) -> bool:
    content = edit.constant_value(value)
    return content is not None and content.ndim < 2


def _original(value: ir.Value, teacher: ir.Model) -> npt.NDArray[np.float32] | None:
    """What the teacher multiplies with where the student reads a weight, moved perhaps."""
    readers, seen = [value], set[ir.Value]()
    named = named_values(teacher.graph)
    while readers:
        current = readers.pop()
        for node, index in () if current in seen else tuple(current.uses()):
            other = named.get(node.outputs[0].name or "") if node.outputs else None
            twin = None if other is None else other.producer()
            if twin is not None and twin.op_type == node.op_type and index < len(twin.inputs):
                found = edit.constant_value(twin.inputs[index])
                if found is not None and found.dtype == np.float32:
                    return found
            if (spec := spec_of(node)) is not None and index in spec.moved_inputs(node):
                readers += node.outputs
        seen.add(current)
    return None


def _alike(original: npt.NDArray[np.float32], value: npt.NDArray[np.float32]) -> bool:
    """Whether one was rounded from the other, element by element."""
    return original.size == value.size and cosine(original, value) > _ALIKE


def _weights(model: ir.Model) -> Iterator[ir.Value]:
    """Values of floats in the main graph, without what merely moves them."""
    constant, types = constant_sources(model), infer(model)
    found: dict[ir.Value, None] = {}
    for node in model.graph.all_nodes():
        if any(output in constant for output in node.outputs):
            continue
        for value in node.inputs:
            if value is not None and value in constant:
                root = _unmoved(value, types)
                own = root.graph is model.graph and not root.is_graph_input() and not root.is_graph_output()
                if own and types.dtype(root) == ir.DataType.FLOAT:
                    found[root] = None
    return iter(found)


def _unmoved(value: ir.Value, types: Shapes) -> ir.Value:
    """What a constant is, before it is moved."""
    while (node := value.producer()) is not None:
        spec = spec_of(node)
        moved = () if spec is None else spec.moved_inputs(node)
        source = node.inputs[moved[0]] if len(moved) == 1 else None
        if source is None or types.dtype(source) != ir.DataType.FLOAT:
            break
        value = source
    return value
