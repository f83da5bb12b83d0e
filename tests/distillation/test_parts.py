"""Where a student is cut, and that its blocks one after the other are the student."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from onnxslim._ir import ir
from onnxslim.distillation.parts import Cut, Part, find_cuts, part_of
from onnxslim.distillation.students import Student, find_student
from onnxslim.runtime.client import open_worker
from tests.distillation.nets import deep, rows, with_arrays
from tests.models import run


def student_of(model: ir.Model) -> Student:
    with open_worker() as worker:
        return find_student(worker, model)


def parts_of(student: Student, cuts: list[Cut]) -> list[Part]:
    ends = [None, *cuts, None]
    return [part_of(student, *pair) for pair in pairwise(ends)]


def test_it_is_cut_behind_residual_blocks() -> None:
    student = student_of(deep(0.1))
    assert [cut.value for cut in find_cuts(student, deep())] == [
        "r2",
        "r4",
    ]  # not at r0: it has but one matrix
    names = [set(part.student.forms) for part in parts_of(student, find_cuts(student, deep()))]
    assert names == [{"w0", "b0", "w1", "b1", "w2"}, {"w3", "w4"}, {"w5", "b5"}]


def test_blocks_of_other_shapes_or_names_are_joined() -> None:
    """A teacher of another width knows no block of that shape."""
    teacher = deep()
    for node in teacher.graph:
        for value in node.outputs:
            if value.name == "r2":
                value.name = "other"
    assert [cut.value for cut in find_cuts(student_of(deep(0.1)), teacher)] == ["r4"]

    def chain(width: int) -> ir.Model:
        text = """g (float[n,4] x) => (float[n,4] y)
            { a = MatMul(x, p)  b = MatMul(a, q)  c = MatMul(b, r)  y = MatMul(c, s) }"""
        shapes = {"p": (4, 5), "q": (5, width), "r": (width, 5), "s": (5, 4)}
        return with_arrays(text, {name: np.ones(shape, "f") for name, shape in shapes.items()})

    assert [cut.value for cut in find_cuts(student_of(chain(3)), chain(3))] == ["b"]
    assert [cut.value for cut in find_cuts(student_of(chain(3)), chain(6))] == ["c"]


def test_blocks_one_after_the_other_are_the_student() -> None:
    student, x = student_of(deep(0.1)), rows(5)
    for form in student.forms.values():
        for array in form.parameters.values():
            array += 0.01
    parts = parts_of(student, find_cuts(student, deep()))
    feed = {"x": x}
    for part in parts:
        graph = part.student.graph
        [found] = run(graph, {value.name: feed[value.name] for value in graph.graph.inputs if value.name})
        if part.before is not None:
            given = run(part.before, {"x": x})
            assert all(
                np.allclose(feed[n], value, atol=1e-5) for n, value in zip(part.inputs, given, strict=True)
            )
        following = parts[parts.index(part) + 1].inputs if part is not parts[-1] else ()
        feed = dict.fromkeys(following, found)
    [whole] = run(student.stored(), {"x": x})
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-6)


def test_what_depends_on_no_weight_may_cross() -> None:
    """A mask that every block reads, and a size."""
    text = """g (float[n,4] x, int64[n,4] m) => (float[n,4] y) {
        f = Cast<to = 1>(m)  a = MatMul(x, p)  k = Mul(a, f)  b = MatMul(k, q)  s = Shape(k)
        c = MatMul(b, r)  t = Reshape(c, s)  d = Mul(t, f)  y = MatMul(d, u) }"""
    net = with_arrays(text, {name: np.eye(4, dtype="f") for name in "pqru"})
    [cut] = find_cuts(student_of(net), net)
    assert cut.value == "b" and set(cut.crossing) == {"b", "f", "s"}


def test_an_output_in_between_is_no_cut() -> None:
    """It would be trained twice."""
    net = deep()
    net.graph.outputs.append(next(v for node in net.graph for v in node.outputs if v.name == "r0"))
    net.graph.outputs[1].shape, net.graph.outputs[1].type = (
        ir.Shape(["n", 24]),
        ir.TensorType(ir.DataType.FLOAT),
    )
    assert find_cuts(student_of(net), net) == []


def test_weights_that_are_moved_first_count_where_they_are_read() -> None:
    """Their movement stands at the beginning of the graph."""
    text = """g (float[n,4] x) => (float[n,4] y) {
        p = Transpose<perm = [1, 0]>(a)  q = Transpose<perm = [1, 0]>(b)  r = Transpose<perm = [1, 0]>(c)
        s = Transpose<perm = [1, 0]>(d)
        h = MatMul(x, p)  i = MatMul(h, q)  j = MatMul(i, r)  y = MatMul(j, s) }"""
    net = with_arrays(text, {name: np.eye(4, dtype="f") for name in "abcd"})
    assert [cut.value for cut in find_cuts(student_of(net), net)] == ["i"]
