"""Whole models: what is differentiated, what is frozen and why, what a step is made of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.distillation.gradient import differentiate
from onnxslim.errors import ModelError, OptionError
from tests.gradients import check
from tests.models import model, proto, run

WIDE = """g (float[2,3] x, float[2,3] r) => (float loss)
    <float[3] w = {0.5, -1, 2}, float[3] v = {1, 2, 3}> {"""


def test_several_consumers_and_ties_are_added_up() -> None:
    """One weight is read four times, at two places of one node and behind two others."""
    text = (
        WIDE
        + """a = Mul(w, w)  b = Add(a, x)  c = Tanh(b)  d = Mul(c, w)  e = Add(d, b)
        f = Mul(e, r)  loss = ReduceSum<keepdims = 0>(f) }"""
    )
    feed = {"x": np.float32([[1, 2, 3], [4, 5, -6]]), "r": np.float32([[1, -2, 1], [0.5, 2, 3]])}
    check(proto(text, opset=18), feed, ["w", "x"])


def test_values_in_between_have_gradients_too() -> None:
    text = WIDE + """a = Mul(x, w)  b = Exp(a)  c = Mul(b, r)  loss = ReduceSum<keepdims = 0>(c) }"""
    step = differentiate(model(text, opset=18), "loss", ["b", "a", "w"], keep=["a"])
    assert [value.name for value in step.model.graph.outputs] == [
        "loss", "a", "b_gradient", "a_gradient", "w_gradient",
    ]  # fmt: skip
    x, r, w = (
        np.float32([[1, 2, 3], [0, 1, -1]]),
        np.float32([[1, 2, 1], [1, 1, 3]]),
        np.float32([0.5, -1, 2]),
    )
    loss, a, by_b, by_a, by_w = run(step.model, {"x": x, "r": r, "w": w})
    assert np.allclose(a, x * w) and np.allclose(loss, (np.exp(x * w) * r).sum(), rtol=1e-5)
    assert np.array_equal(by_b, r)
    assert np.allclose(by_a, r * np.exp(x * w), rtol=1e-5)
    assert np.allclose(by_w, (r * np.exp(x * w) * x).sum(0), rtol=1e-5)


def test_the_model_stays_and_the_step_has_what_it_needs() -> None:
    """Weights become inputs; what leads to no gradient, and inputs that nobody reads, are gone."""
    text = """g (float[3] x, float[3] unread) => (float loss, float[3] other)
        <float[3] w = {1, 2, 3}, float[3] v = {4, 5, 6}>
        { other = Exp(v)  y = Mul(x, w)  loss = ReduceSum<keepdims = 0>(y) }"""
    original = model(text, opset=18)
    before = ir.to_proto(original).SerializeToString()
    step = differentiate(original, "loss", ["w"])
    assert ir.to_proto(original).SerializeToString() == before
    assert [(v.name, str(v.shape), v.dtype) for v in step.model.graph.inputs] == [
        ("x", "[3]", ir.DataType.FLOAT), ("w", "[3]", ir.DataType.FLOAT),
    ]  # fmt: skip
    assert set(step.model.graph.initializers) & {"v", "w"} == set()
    assert {node.op_type for node in step.model.graph} <= {
        "Mul",
        "ReduceSum",
        "Unsqueeze",
        "Expand",
        "Shape",
        "Identity",
    }
    onnx.checker.check_model(ir.to_proto(step.model), full_check=True)


def test_an_operator_without_a_rule_freezes_what_is_in_front_of_it() -> None:
    """Also what reaches the loss on another way: half a gradient is a wrong one."""
    text = """g (float[2,2] x) => (float loss)
        <float[2,2] w = {1, 2, 3, 4}, float[2,2] v = {1, 0, 1, 2}, float[2] b = {1, 2}>
        { a = MatMul(x, w)  d = Det(a)  c = MatMul(a, v)  e = Add(c, b)  f = Add(e, d)
          loss = ReduceSum<keepdims = 0>(f) }"""
    step = differentiate(model(text, opset=18), "loss", ["w", "v", "b"])
    assert set(step.gradients) == {"v", "b"}
    assert set(step.frozen) == {"w"} and step.frozen["w"].startswith("Det ")
    assert "w" in step.model.graph.initializers  # stored again
    x = np.float32([[1, 2], [3, 5]])
    names = [value.name for value in step.model.graph.outputs]
    v, b = np.float32([[1, 0], [1, 2]]), np.float32([1, 2])
    made = dict(zip(names, run(step.model, {"x": x, "v": v, "b": b}), strict=True))
    assert np.allclose(made["b_gradient"], [2, 2])
    assert np.allclose(made["v_gradient"], (x @ np.float32([[1, 2], [3, 4]])).T @ np.ones((2, 2)))


def test_what_the_loss_does_not_depend_on_is_named() -> None:
    """Behind a comparison, an index or a shape there is nothing to learn, and nothing is frozen for it."""
    text = """g (float[2,3] x) => (float loss)
        <float[3] w = {1, 2, 3}, float[3] v = {1, 1, 1}, float[2] u = {1, 2}>
        { a = Mul(x, w)  i = ArgMax<axis = 1, keepdims = 1>(a)  j = Cast<to = 1>(i)
          s = Shape(a)  t = Cast<to = 1>(s)  b = Mul(x, v)  c = Mul(b, j)  d = ReduceSum<keepdims = 0>(c)
          e = ReduceSum<keepdims = 0>(t)  loss = Add(d, e) }"""
    step = differentiate(model(text, opset=18), "loss", ["w", "v", "u"])
    assert set(step.gradients) == {"v"}
    assert step.frozen == dict.fromkeys(("w", "u"), "the loss does not depend on it")


def test_a_loop_freezes_what_it_reads() -> None:
    text = """g (float[2] x, bool c) => (float loss) <float[2] w = {1, 2}, float[2] v = {1, 2}>
        { y = Loop(n, c, x) <body = b (int64 i, bool go, float[2] s) => (bool again, float[2] out) {
            again = Identity(go)  out = Mul(s, w) }>
          t = Reshape(y, two)  z = Mul(t, v)  loss = ReduceSum<keepdims = 0>(z) }"""
    text = text.replace("float[2] v = {1, 2}>", "float[2] v = {1, 2}, int64 n = {3}, int64[1] two = {2}>", 1)
    step = differentiate(model(text, opset=18), "loss", ["w", "v", "x"])
    assert set(step.gradients) == {"v"} and set(step.frozen) == {"w", "x"}
    assert step.frozen["w"].startswith("Loop ")


def test_an_if_has_the_gradient_of_the_branch_that_runs() -> None:
    """Also of a value that one branch alone reads, one that is read outside as well, and an If in an If."""
    text = """g (float[2,3] x, float[2,3] r, bool c, bool d) => (float loss)
        <float[3] w = {0.5, -1, 2}, float[3] v = {1, 2, 3}> {
        a = Mul(x, w)
        y, z = If(c) <
            then_branch = one () => (float[2,3] y1, float[2,3] z1) {
                t = Tanh(a)  y1 = Mul(t, v)  z1 = If(d) <
                    then_branch = inner () => (float[2,3] p) { q = Mul(t, w)  p = Exp(q) },
                    else_branch = other () => (float[2,3] u) { u = Identity(t) }> },
            else_branch = two () => (float[2,3] y2, float[2,3] z2) { y2 = Add(a, x)  z2 = Mul(a, a) }>
        b = Mul(y, z)  e = Add(b, a)  f = Mul(e, r)  loss = ReduceSum<keepdims = 0>(f) }"""
    feed = {"x": np.float32([[1, 0.2, 0.3], [0.4, 0.5, -0.6]]), "r": np.float32([[1, -2, 1], [0.5, 2, 3]])}
    for c in (True, False):
        for d in (True, False):
            step = check(proto(text, opset=18), {**feed, "c": np.array(c), "d": np.array(d)}, ["w", "x", "v"])
            assert not step.frozen


@pytest.mark.parametrize("opset", [9, 13, 17, 21])
def test_older_operator_sets_are_raised(opset: int) -> None:
    text = """g (float[1,2,6,5] x, float[1,3,3,3] r) => (float loss) <float[3,2,3,3] w> {
        a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w)  b = Relu(a)  c = Mul(b, r)
        loss = ReduceSum<keepdims = 0>(c) }"""
    graph = proto(text.replace(" <float[3,2,3,3] w>", ""), opset=opset).graph
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, 2, 3, 3)).astype(np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    whole = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    feed = {
        n: random.normal(size=s).astype(np.float32) for n, s in (("x", (1, 2, 6, 5)), ("r", (1, 3, 3, 3)))
    }
    check(whole, feed, ["w", "x"])


def test_functions_of_a_model_are_looked_into() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18, "own" : 1]>
        g (float[3] x) => (float loss) <float[3] w = {1, 2, 3}>
        { y = own.scaled(x, w)  loss = ReduceSum<keepdims = 0>(y) }
        <domain: "own", opset_import: ["" : 18]> scaled (a, b) => (c) { d = Mul(a, b)  c = Mul(d, b) }"""
    step = differentiate(model(text), "loss", ["w"])
    x, w = np.float32([1, 2, 3]), np.float32([2, -1, 1])
    assert np.allclose(run(step.model, {"x": x, "w": w})[1], 2 * x * w)


def test_an_open_batch_stays_open() -> None:
    text = """g (float[n,1,6,6] x, float[n,4] r) => (float loss)
        <float[2,1,3,3] w, float[32,4] m, float[4] b> {
        a = Conv(x, w)  c = Relu(a)  d = Flatten(c)  e = MatMul(d, m)  f = Add(e, b)  g = Softmax(f)
        h = Mul(g, r)  loss = ReduceMean<keepdims = 0>(h) }"""
    head, tail = text.split("<float[2", 1)
    graph = proto(head + tail[tail.index(">") + 1 :], opset=18).graph
    random = np.random.default_rng(0)
    for name, shape in {"w": (2, 1, 3, 3), "m": (32, 4), "b": (4,)}.items():
        stored = (0.3 * random.normal(size=shape)).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(stored, name))
    whole = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    for batch in (1, 3):
        feed = {"x": random.normal(size=(batch, 1, 6, 6)), "r": random.normal(size=(batch, 4))}
        check(whole, {k: a.astype(np.float32) for k, a in feed.items()}, ["w", "m", "b"])


def test_half_precision_stays_half() -> None:
    """Constants of a rule have the type of the value."""
    text = """g (float16[2,3] x, float16[2,3] r, float16[3] w) => (float16 loss) {
        a = Mul(x, w)  b = Relu(a)  c = Sigmoid(b)  d = Mul(c, r)  loss = ReduceSum<keepdims = 0>(d) }"""
    step = differentiate(model(text, opset=18), "loss", ["w"])
    x, r, w = (
        np.float16([[1, 2, 3], [4, -5, 6]]),
        np.float16([[1, -2, 1], [0.5, 2, 3]]),
        np.float16([0.5, -1, 2]),
    )
    gradient = run(step.model, {"x": x, "r": r, "w": w})[1]
    wide = x.astype(float) * w
    sigmoid = 1 / (1 + np.exp(-np.maximum(wide, 0)))
    assert gradient.dtype == np.float16
    assert np.allclose(gradient, (r * sigmoid * (1 - sigmoid) * (wide > 0) * x).sum(0), atol=1e-2)


@pytest.mark.parametrize(
    ("loss", "wrt", "message"),
    [
        ("nothing", ["w"], "no value 'nothing'"),
        ("loss", ["nothing"], "no value 'nothing'"),
        ("a", ["w"], "'a' is not known to have one element"),
        ("i", ["w"], "'i' is no float"),
    ],
)
def test_names_that_make_no_sense_are_errors(loss: str, wrt: list[str], message: str) -> None:
    text = WIDE + "a = Mul(x, w)  i = Size(a)  loss = ReduceSum<keepdims = 0>(a) }"
    with pytest.raises(OptionError, match=message):
        differentiate(model(text, opset=18), loss, wrt)


def test_a_model_that_cannot_be_raised_is_an_error() -> None:
    text = """g (float[1,1,2,2] x) => (float[1] loss)
        { y = Crop<border = [0, 0, 0, 0]>(x)  loss = ReduceSum<keepdims = 0>(y) }"""
    with pytest.raises(ModelError, match="operator set 18"):
        differentiate(model(text, opset=7), "loss", ["x"])


NODES = {
    "Add": 2, "Sub": 2, "Mul": 2, "Max": 2, "Tanh": 1, "Sigmoid": 1, "Relu": 1, "Softmax": 1, "MatMul": 2,
    "Transpose": 1, "Exp": 1, "Neg": 1, "LeakyRelu": 1,
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_generated_graphs(data: st.DataObject) -> None:
    """Any graph of these operators on square matrices: values are read any number of times, or never."""
    values, lines = ["x", "w", "v"], []
    for index in range(data.draw(st.integers(1, 9))):
        op_type = data.draw(st.sampled_from(sorted(NODES)))
        inputs = [data.draw(st.sampled_from(values)) for _ in range(NODES[op_type])]
        lines += [f"u{index} = {op_type}({', '.join(inputs)})", f"n{index} = Tanh(u{index})"]
        values.append(f"n{index}")
    text = f"""g (float[3,3] x, float[3,3] r) => (float loss)
        <float[3,3] w = {{0.1, 0.5, -0.7, 1.1, 0.3, -0.2, 0.6, -0.9, 0.8}},
         float[3,3] v = {{-0.4, 0.25, 0.9, 0.15, -1.2, 0.35, 0.55, 0.75, -0.65}}>
        {{ {"  ".join(lines)}  both = Add({values[-1]}, {values[-2]})  p = Mul(both, r)
           loss = ReduceSum<keepdims = 0>(p) }}"""
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    feed = {name: random.uniform(0.2, 1, (3, 3)).astype(np.float32) for name in ("x", "r")}
    built = proto(text, opset=18)
    step = differentiate(ir.from_proto(built), "loss", ["x", "w", "v"])
    assert set(step.frozen.values()) <= {"the loss does not depend on it"}
    check(built, feed, list(step.gradients), tolerance=5e-3)
