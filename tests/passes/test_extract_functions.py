"""Functions for what is repeated: equal bits, and nothing that could not be a node of its own."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model.io import load
from onnxslim.passes.extract_functions import ExtractFunctions
from onnxslim.runtime.kernels import executed
from tests.models import bit_equal, proto, run
from tests.passes.test_codebook_weights import built

TOWERS = """g (float[2,8] left, float[2,8] right) => (float[2,8] y)
    { a = MatMul(left, w)  b = Add(a, c)  d = Relu(b)  e = MatMul(d, v)  f = Add(left, e)
      k = MatMul(right, w) l = Add(k, c)  m = Relu(l)  n = MatMul(m, v)  o = Add(right, n)
      y = Mul(f, o) }"""
SHAPES: dict[str, tuple[int, ...]] = {"w": (8, 8), "v": (8, 8), "c": (8,)}


def feeds(*names: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {name: random.normal(size=(2, 8)).astype(np.float32) for name in names}


def extracted(model: ir.Model, **options: int) -> ir.Model:
    result = model.clone()
    assert ExtractFunctions(**options)(result).modified
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    load(ir.to_proto(result))
    again = result.clone()
    assert not ExtractFunctions(**options)(again).modified, "a second time there is nothing to do"
    return result


def shape_of(model: ir.Model) -> tuple[list[str], list[list[str]]]:
    bodies = [[node.op_type for node in function] for function in model.functions.values()]
    return [node.op_type for node in model.graph], bodies


@pytest.mark.parametrize("opset", [7, 13, 17, 21])
def test_twin_towers(opset: int) -> None:
    model = built(TOWERS, opset, **SHAPES)
    result = extracted(model)
    assert shape_of(result) == (["part", "part", "Mul"], [["MatMul", "Add", "Relu", "MatMul", "Add"]])
    assert result.ir_version >= 8
    feed = feeds("left", "right")
    assert bit_equal(run(model, feed), run(result, feed))
    for level in ("basic", "all"):
        assert executed(result, optimize=level).histogram == executed(model, optimize=level).histogram
    assert [value.name for value in result.graph.outputs] == ["y"]
    assert {"f", "o"} == {v.name for node in result.graph for v in node.outputs} - {"y"}


def test_layers_that_share_their_weights() -> None:
    text = "g (float[2,8] x) => (float[2,8] y) {" + " ".join(
        f"a{i} = MatMul({'x' if i == 0 else f'e{i - 1}'}, w) b{i} = Add(a{i}, c) d{i} = Relu(b{i}) "
        f"{'y' if i == 5 else f'e{i}'} = MatMul(d{i}, v)"
        for i in range(6)
    )
    model = built(text + "}", **SHAPES)
    result = extracted(model)
    assert shape_of(result) == (["part"] * 6, [["MatMul", "Add", "Relu", "MatMul"]])
    assert bit_equal(run(model, feeds("x")), run(result, feeds("x")))


def test_an_output_in_the_middle_is_an_output_of_the_function() -> None:
    text = TOWERS.replace("(float[2,8] y)", "(float[2,8] y, float[2,8] m)")
    model = built(text, **SHAPES)
    result = extracted(model)
    [function] = result.functions.values()
    assert len(function.outputs) == 2 and [v.name for v in result.graph.outputs] == ["y", "m"]
    feed = feeds("left", "right")
    assert bit_equal(run(model, feed), run(result, feed))


def test_a_part_that_is_left_and_entered_again_is_cut_there() -> None:
    """Between its halves something is computed that only one tower has."""
    text = TOWERS.replace("n = MatMul(m, v)", "s = Exp(m) t = Neg(s) n = MatMul(t, v) p = Add(n, m)").replace(
        "o = Add(right, n)", "q = Add(p, right) o = Relu(q)"
    ).replace("f = Add(left, e)", "i = Add(e, d) j = Add(i, left) f = Relu(j)")
    model = built(text, **SHAPES)
    result = extracted(model, least=2)
    assert all(op in shape_of(result)[0] for op in ("Exp", "Neg"))
    feed = feeds("left", "right")
    assert bit_equal(run(model, feed), run(result, feed))


def test_parts_that_read_each_other_stay() -> None:
    """Each is convex, and as nodes they would wait for each other."""
    text = """g (float[2,8] x) => (float[2,8] y, float[2,8] z)
        { a = MatMul(x, w) b = Neg(x) c1 = MatMul(b, w)
          d = Mul(a, c1) e = Mul(c1, a) y = MatMul(d, v) z = MatMul(e, v) }"""
    model = built(text, w=(8, 8), v=(8, 8))
    for least in (2, 3):
        result = model.clone()
        ExtractFunctions(least=least)(result)
        onnx.checker.check_model(ir.to_proto(result), full_check=True)
        assert bit_equal(run(model, feeds("x")), run(result, feeds("x")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n = MatMul(m, v)", "n = MatMul(m, w)"),
        ("m = Relu(l)", "m = Tanh(l)"),
        ("l = Add(k, c)", "l = Add(c, k)"),
        ("m = Relu(l)", "m = Elu<alpha = 0.5>(l)"),
        ("m = Relu(l)", "r = RandomUniformLike(l) m = Add(l, r)"),
    ],
)
def test_what_is_not_alike(old: str, new: str) -> None:
    model = built(TOWERS.replace(old, new).replace("d = Relu(b)", "d = Elu<alpha = 1.0>(b)" if "Elu" in new else "d = Relu(b)"), **SHAPES)
    assert not ExtractFunctions()(model).modified
    assert not model.functions


def test_few_nodes_stay() -> None:
    assert not ExtractFunctions(least=6)(built(TOWERS, **SHAPES)).modified
    with pytest.raises(OptionError, match="least"):
        ExtractFunctions(least=1)


def test_in_branches_and_across_them() -> None:
    """What a branch reads from a tower is an output of it; towers in a branch are found too."""
    source = proto(
        """g (bool c, float[2,8] left, float[2,8] right) => (float[2,8] y)
        { a = MatMul(left, w)  b = Add(a, k)  d = Relu(b)  e = MatMul(d, v)
          h = MatMul(right, w) l = Add(h, k)  m = Relu(l)  n = MatMul(m, v)
          y = If (c) <then_branch = t () => (float[2,8] o)
              { p = MatMul(e, v) q = Relu(p) r = Neg(q) s = MatMul(r, w) o1 = MatMul(n, v) q1 = Relu(o1)
                r1 = Neg(q1) s1 = MatMul(r1, w) o = Add(s, s1) },
            else_branch = u () => (float[2,8] z) { z = Add(e, m) }> }"""
    )
    random = np.random.default_rng(0)
    for name, shape in {"w": (8, 8), "v": (8, 8), "k": (8,)}.items():
        source.graph.initializer.append(
            onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        )
    model = ir.from_proto(source)
    result = extracted(model)
    assert len(result.functions) == 2
    for c in (True, False):
        feed = feeds("left", "right") | {"c": np.array(c)}
        assert bit_equal(run(model, feed), run(result, feed))


def test_a_name_that_is_taken() -> None:
    source = ir.to_proto(built(TOWERS, **SHAPES))
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    opsets = [onnx.helper.make_opsetid("", 17)]
    source.functions.append(onnx.helper.make_function("local", "part", ["x"], ["y"], [node], opsets))
    source.opset_import.append(onnx.helper.make_opsetid("local", 1))
    result = extracted(ir.from_proto(source))
    assert {name for _, name, _ in result.functions} == {"part", "part_1"}
    feed = feeds("left", "right")
    assert bit_equal(run(source, feed), run(result, feed))


@given(st.integers(0, 2**31), st.sampled_from([2, 4]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_graph(seed: int, least: int) -> None:
    """Random graphs of few operators and weights, in which much is alike by chance."""
    random = np.random.default_rng(seed)
    values, lines = ["x", "z"], []
    for number in range(24):
        picked = [values[-1 - min(int(random.geometric(0.3)), len(values) - 1)] for _ in range(2)]
        form = random.choice(["MatMul({0}, w)", "MatMul({0}, v)", "Add({0}, {1})", "Relu({0})", "Add({0}, c)"])
        lines.append(f"n{number} = {form.format(*picked)}")
        values.append(f"n{number}")
    text = "g (float[2,8] x, float[2,8] z) => (float[2,8] n23, float[2,8] n20) {" + " ".join(lines) + "}"
    model = built(text, **SHAPES)
    result = model.clone()
    if ExtractFunctions(least=least)(result).modified:
        onnx.checker.check_model(ir.to_proto(result), full_check=True)
        assert len(list(result.graph)) < 24
    feed = feeds("x", "z")
    assert bit_equal(run(model, feed), run(result, feed))
