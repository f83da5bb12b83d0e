"""Where a student is cut into blocks that are trained one after the other.

It is cut at values through which alone what was trained before reaches what comes behind, and which the
teacher has under the same name and in the same shape.  What depends on no weight may cross too: masks, sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.analysis.constants import constant_sources
from onnxslim.analysis.extract import extract, named_values
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.distillation._prepare import captured, spread
from onnxslim.distillation.students import Student
from onnxslim.model import edit

__all__ = ["Cut", "Part", "find_cuts", "part_of"]

_LEAST = 2  # matrices that a block multiplies with: single products have no freedom to make up for each other


@dataclass(frozen=True)
class Cut:
    """A place between two blocks.

    Attributes:
        value: what was computed with weights and crosses it.
        crossing: this and whatever else the nodes behind read, by name.
    """

    value: str
    crossing: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One block as a student of its own.

    Attributes:
        student: whose graph takes what crosses the cut in front of it.
        before: computes that; None for the first block.
        inputs: the names that the values which ``before`` gives have as inputs.
    """

    student: Student
    before: ir.Model | None
    inputs: tuple[str, ...]


def find_cuts(student: Student, teacher: ir.Model) -> list[Cut]:
    """The cuts from the inputs to the outputs, so that each block has at least two matrices to train.

    Example:
        >>> import numpy as np, onnx.parser
        >>> from onnxslim.distillation.forms import Plain
        >>> matrices = [f"w{n}" for n in range(4)]
        >>> model = ir.from_proto(onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,1] x) => (float[1,1] y)
        ...     <float[1,1] w0 = {1}, float[1,1] w1 = {1}, float[1,1] w2 = {1}, float[1,1] w3 = {1}>
        ...     { a = MatMul(x, w0) b = MatMul(a, w1) c = Relu(b) d = MatMul(c, w2) y = MatMul(d, w3) }'''))
        >>> forms = {name: Plain(name, np.ones((1, 1), np.float32)) for name in matrices}
        >>> [cut.value for cut in find_cuts(Student(model, model, forms), model)]
        ['c']
    """
    matrices = {name for name, form in student.forms.items() if form.value().ndim > 1}
    found = dict(_candidates(student, teacher, matrices))  # the last one behind so many matrices
    cuts, last, read = [], 0, len(matrices)
    for count, cut in found.items():
        if count - last >= _LEAST and read - count >= 1:
            cuts.append(cut)
            last = count
    return cuts


def _candidates(student: Student, teacher: ir.Model, matrices: set[str]) -> Iterator[tuple[int, Cut]]:
    """All cuts, with the number of matrices in front of each."""
    graph, shapes, others = student.graph.graph, infer(student.graph), infer(teacher)
    trained = {
        value: frozenset({name}) for name, value in graph.initializers.items() if name in student.forms
    }
    spread(graph, trained)
    constant, named = constant_sources(student.graph), named_values(teacher.graph)
    nodes = list(graph)
    reads = [[v for v in (*node.inputs, *captured(node)) if v is not None] for node in nodes]
    last = {value: step for step, values in enumerate(reads) for value in values}
    last.update(dict.fromkeys(graph.outputs, len(nodes)))
    alive: dict[ir.Value, None] = {}
    seen: set[str] = set()
    for step, node in enumerate(nodes):
        if not all(output in constant for output in node.outputs):  # else it moves a weight
            for value in reads[step]:
                seen |= trained.get(value, frozenset()) & matrices if value in constant else frozenset()
        alive.update((value, None) for value in node.outputs if value not in constant)
        alive = {value: None for value in alive if last.get(value, -1) > step}
        crossing = [value for value in alive if value in trained]
        if len(crossing) != 1 or any(shapes.dtype(value) is None or not value.name for value in alive):
            continue
        [value] = crossing
        twin = named.get(value.name or "")
        if twin is not None and twin.producer() is not None and _same(value, twin, shapes, others):
            yield len(seen), Cut(value.name or "", tuple(each.name or "" for each in alive))


def _same(value: ir.Value, twin: ir.Value, shapes: Shapes, others: Shapes) -> bool:
    """Whether student and teacher have floats of one shape there, behind the samples of a batch."""
    own, other = shapes.shape(value), others.shape(twin)
    floats = shapes.dtype(value) == others.dtype(twin) == ir.DataType.FLOAT
    return floats and own is not None and other is not None and len(own) > 0 and own[1:] == other[1:]


def part_of(student: Student, before: Cut | None, behind: Cut | None) -> Part:
    """The block between two cuts, with the weights that are read there first; the others stay as they are."""
    current = edit.copy_of(student.graph)
    for name, form in student.forms.items():
        edit.replace_initializer(current.graph.initializers[name], form.value().copy())
    ends = [behind.value] if behind is not None else [value.name or "" for value in current.graph.outputs]
    given = () if before is None else before.crossing
    graph, inputs = extract(current, ends, dict.fromkeys(given, ()))
    entered = [name for name in given if name in inputs]
    entry = extract(current, entered)[0] if entered else None
    earlier = () if before is None else extract(current, before.crossing)[0].graph.initializers
    forms = {
        name: form
        for name, form in student.forms.items()
        if name in graph.graph.initializers and name not in earlier
    }
    return Part(Student(student.model, graph, forms), entry, tuple(inputs[name] for name in entered))
