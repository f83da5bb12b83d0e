"""The loss as nodes of a graph against the same in numpy, and what is compared at all."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.distillation.gradient import differentiate
from onnxslim.distillation.losses import LABELS, Term, append_loss, plan_terms, target_name
from tests.distillation.nets import noisy, rows, wide
from tests.models import model, run


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(shares / shares.sum(-1, keepdims=True))


def test_numbers_are_those_of_the_definitions() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 4, (6, 5)), rng.normal(0, 4, (6, 5))
    p, q = softmax(teacher / 3), softmax(student / 3)
    expected = 9 * float(np.mean(np.sum(p * np.log(p / q), -1)))
    assert Term("kl", "y", "y").measure(student, teacher) == pytest.approx(expected)
    assert Term("kl", "y", "y", axis=0).measure(student.T, teacher.T) == pytest.approx(expected)
    assert Term("mse", "y", "y").measure(student, teacher, 2.0) == pytest.approx(
        np.mean((student - teacher) ** 2) / 2
    )
    labels = np.array([0, 1, 2, 3, 4, 0])
    right = -np.mean(np.log(softmax(student)[np.arange(6), labels]))
    assert Term("cross-entropy", "y", "y").measure(student, labels) == pytest.approx(right)


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_the_graph_computes_the_weighted_sum(opset: int) -> None:
    """All kinds of terms at once, in several operator sets, on scores that a naive softmax cannot take."""
    text = "g (float[6,5] x) => (float[6,5] y) { y = Mul(x, x) }"
    net = model(text, opset=opset)
    rng = np.random.default_rng(1)
    x, teacher = rng.normal(0, 12, (6, 5)).astype("f"), rng.normal(0, 100, (6, 5)).astype("f")
    labels = np.array([4, 1, 0, 3, 2, 2])
    terms = [Term("kl", "y", "y"), Term("mse", "y", "y"), Term("cross-entropy", "y", "y")]
    weights = {"kl of y": 0.5, "mse of y": 2.0, "cross-entropy of y": 0.25}
    variances = {"mse of y": 7.0}
    name = append_loss(net, terms, weights, variances)
    feed = {"x": x, "teacher/y": teacher, f"teacher/{LABELS}": labels}
    [loss] = run(net, feed, [name])
    targets = {target_name(term): labels if term.kind == "cross-entropy" else teacher for term in terms}
    expected = sum(
        weights[term.name] * term.measure(x * x, targets[target_name(term)], variances.get(term.name, 1.0))
        for term in terms
    )
    assert loss.shape == () and float(loss) == pytest.approx(expected, rel=1e-4)


def test_classes_are_compared_in_front_of_their_softmax() -> None:
    assert [term.name for term in plan_terms(noisy(), wide())] == ["kl of l"]
    with_labels = plan_terms(noisy(), wide(), labelled=True)
    assert [term.name for term in with_labels] == ["kl of l", "cross-entropy of l"]


def test_what_is_no_class_is_compared_as_numbers() -> None:
    net = model("g (float[2,3] x) => (float[2,3] y) { y = Tanh(x) }")
    assert [term.name for term in plan_terms(net, net)] == ["mse of y"]


def test_sums_of_residual_blocks_are_compared_where_both_models_have_them() -> None:
    def net(width: int, blocks: int = 9) -> ir.Model:
        body, last = [], "x"
        for number in range(blocks):
            body.append(f"t{number} = Tanh({last})  s{number} = Add(t{number}, {last})")
            last = f"s{number}"
        return model(
            f"g (float[2,{width}] x) => (float[2,{width}] y) {{ {' '.join(body)} y = Relu({last}) }}"
        )

    inside = [term.value for term in plan_terms(net(3), net(3)) if term.inside]
    assert len(inside) == 6 and inside[-1] == "s8"
    assert not [term for term in plan_terms(net(3), net(4)) if term.inside]


def test_a_student_that_equals_its_teacher_has_no_loss() -> None:
    net = wide()
    [term] = plan_terms(net, net)
    [scores] = run(net, {"x": rows(5)}, ["y"])
    assert term.measure(np.log(scores), np.log(scores)) == pytest.approx(0, abs=1e-12)


def test_the_loss_is_known_to_be_a_number_where_the_rank_of_a_value_is_not() -> None:
    net = model(
        "g (float[1,6] x, int64[n] axes) => (float[m] y) { z = Unsqueeze(x, axes)  y = Abs(z) }", opset=17
    )
    for value in net.graph.all_nodes():
        value.outputs[0].shape = None
    name = append_loss(net, [Term("mse", "y", "y")], {"mse of y": 1.0}, {"mse of y": 1.0})
    step = differentiate(net, name, ["x"])
    x, axes = np.arange(-2.5, 3.5, dtype="f").reshape(1, 6), np.array([0], np.int64)
    [loss] = run(net, {"x": x, "axes": axes, "teacher/y": np.zeros((1, 1, 6), "f")})
    assert loss == pytest.approx(np.mean(x**2))
    assert step.model.graph.outputs[0].name == name
