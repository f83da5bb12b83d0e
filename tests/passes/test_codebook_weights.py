"""Codebooks in a model: what is stored, what the runtime makes of it, what is left alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OptionError
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import collect_declines
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.fold_constants import FoldConstants
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.reconstruct.codebook import code_bits
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import proto, run
from tests.passes.test_few_bits import NET, WEIGHTS

PRODUCT = "g (float[4,256] x) => (float[4,96] y) { y = MatMul(x, w) }"
PER = ("channel", "tensor", "block")


def built(text: str, opset: int = 17, **weights: tuple[int, ...] | np.ndarray) -> ir.Model:
    """A model from text whose undefined names are these weights, or random ones of these shapes."""
    source, rng = proto(text, opset=opset), np.random.default_rng(0)
    for name, weight in weights.items():
        array = weight if isinstance(weight, np.ndarray) else rng.normal(size=weight)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return ir.from_proto(source)


def shared(model: ir.Model, **options: object) -> ir.Model:
    result, step = model.clone(), CodebookWeights(**{"min_sqnr_db": 0.0, **options})  # type: ignore[arg-type]
    before = serialized_size(result)
    assert step(result).modified and serialized_size(result) < before
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    assert not step(result).modified, "a second time there is nothing to do"
    return result


def content(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def looked_up(model: ir.Model, name: str, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The weight read out of the stored bytes and tables alone, value by value."""
    data, table = content(model, f"{name}_q").ravel(), content(model, f"{name}_t").astype(np.float32)
    size, runs = int(np.prod(shape)), -(-int(np.prod(shape)) // (8 // bits))
    scale = content(model, f"{name}_s").astype(np.float32) if f"{name}_s" in model.graph.initializers else None
    outer, blocks, inner = (1, 1, 1) if table.ndim == 1 else (*table.shape[:2], table.shape[3])
    if scale is not None:
        outer, blocks, _, inner = scale.shape
    found = np.empty((outer, blocks, size // (outer * blocks * inner), inner), np.float32)
    for at, (o, b, k, i) in enumerate(np.ndindex(*found.shape)):
        code = (int(data[at % runs]) >> (bits * (at // runs))) % 2**bits
        found[o, b, k, i] = table[code] if table.ndim == 1 else table[o, b, code, i]
        if scale is not None:
            found[o, b, k, i] *= scale[o, b, 0, i]
    return found.reshape(shape)


def decoded(model: ir.Model, name: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    message = ir.to_proto(model)
    message.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    [weight] = run(message, feed, [name])
    return weight


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("entries", [2, 4, 11, 16, 256])
def test_the_runtime_looks_up_the_very_bits_that_are_stored(opset: int, per: str, entries: int) -> None:
    if entries == 256:  # a table of so many values needs long channels
        text, shape = PRODUCT.replace("256", "2048").replace("96", "12"), (2048, 12)
    else:
        text, shape = PRODUCT, (256, 96)
    model = built(text, opset, w=shape)
    result = shared(model, entries=entries, per=per, block=shape[0] // 2)
    feed = {"x": np.random.default_rng(1).normal(size=(4, shape[0])).astype(np.float32)}
    weight = decoded(result, "w_w", feed)
    np.testing.assert_array_equal(
        weight.view(np.uint32),
        looked_up(result, "w", code_bits(entries), shape).view(np.uint32),
    )
    least_db = {2: 4.2, 4: 9.1, 11: 17.0, 16: 20.0, 256: 40.0}[entries]
    assert sqnr_db(content(model, "w"), weight) > least_db
    for level in ("basic", "all"):
        assert executed(result, optimize=level).histogram == {"MatMul": 1}


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("entries", [4, 16])
def test_the_kernels_are_those_of_the_original(entries: int, per: str) -> None:
    model = built(NET, **WEIGHTS)
    result = shared(model, entries=entries, per=per, block=64)
    for level in ("basic", "all"):
        assert executed(result, optimize=level).histogram == executed(model, optimize=level).histogram
    assert not any(name in result.graph.initializers for name in WEIGHTS)
    image = {"x": np.random.default_rng(0).normal(size=(1, 16, 14, 14)).astype(np.float32)}
    [one], [other] = run(model, image), run(result, image)
    assert sqnr_db(one, other) > (14 if entries == 16 else 3)


@given(
    st.sampled_from([2, 4, 16, 256]),
    st.sampled_from(PER),
    st.tuples(st.integers(23, 60), st.integers(23, 60)),
    st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_odd_weights(entries: int, per: str, shape: tuple[int, int], seed: int) -> None:
    """Sizes that fill no byte, channels of zeros, of one value and of few, and negative zeros."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=shape).astype(np.float32)
    weight[:, rng.integers(shape[1], size=4)] = 0
    weight[:, rng.integers(shape[1], size=4)] = np.float32(0.1)
    weight[rng.random(shape) < 0.1] = -0.0
    model = built(f"g (float[2,{shape[0]}] x) => (float[2,{shape[1]}] y) {{ y = MatMul(x, w) }}", w=weight)
    step = CodebookWeights(entries=entries, per=per, min_sqnr_db=0)  # type: ignore[arg-type]
    books = step.stored(model)
    result = model.clone()
    if not step(result).modified:
        assert not books and ir.to_proto(result) == ir.to_proto(model)
        return
    expected = books["w"].decode()
    feed = {"x": rng.normal(size=(2, shape[0])).astype(np.float32)}
    np.testing.assert_array_equal(decoded(result, "w_w", feed).view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(
        looked_up(result, "w", (entries - 1).bit_length(), shape).view(np.uint32), expected.view(np.uint32)
    )
    if per == "channel":
        few = [at for at in range(shape[1]) if len(set(weight[:, at].tolist())) <= min(entries, 2)]
        np.testing.assert_allclose(expected[:, few], weight[:, few], rtol=5e-4)


def test_weights_of_few_values_keep_every_bit() -> None:
    weight = np.random.default_rng(0).choice(np.float32([-0.3, 0.1, 0.7, 1.9]), (256, 96))
    model = built(PRODUCT, w=weight)
    result = shared(model, entries=4, per="tensor", min_sqnr_db=1000.0)
    feed = {"x": np.random.default_rng(1).normal(size=(4, 256)).astype(np.float32)}
    np.testing.assert_array_equal(decoded(result, "w_w", feed), weight)


@pytest.mark.parametrize(("entries", "per"), [*((n, per) for n in (2, 16) for per in PER), (256, "tensor")])
@pytest.mark.parametrize("indices", [np.array([[0, 299, -1], [7, 7, 123]]), np.array(5)], ids=["2d", "0d"])
def test_rows_of_a_large_table_are_gathered_packed(entries: int, per: str, indices: np.ndarray) -> None:
    kind, rows = ("int64[2,3]", "2,3,") if indices.ndim else ("int64", "")
    model = built(f"g ({kind} i) => (float[{rows}1024] y) {{ y = Gather(w, i) }}", w=(300, 1024))
    result = shared(model, entries=entries, per=per, block=512)
    reads = [kernel for kernel in executed(result).kernels if kernel.op_type == "Gather"]
    assert any("w_q" in kernel.inputs for kernel in reads)
    assert all(value.uses() or value.is_graph_output() for node in result.graph for value in node.outputs)
    book = CodebookWeights(entries=entries, per=per, block=512, min_sqnr_db=0).stored(model)["w"]  # type: ignore[arg-type]
    [found] = run(result, {"i": indices})
    np.testing.assert_array_equal(found, book.decode()[indices])
    assert not HalveWeights()(result).modified and not PackWeights()(result).modified


def test_a_table_whose_rows_fill_no_bytes_stays() -> None:
    for shape in ((5000, 65), (50, 100, 64)):
        dims = ",".join(map(str, shape[1:]))
        model = built(f"g (int64[3] i) => (float[3,{dims}] y) {{ y = Gather(w, i) }}", w=shape)
        with collect_declines() as log:
            assert not CodebookWeights(per="tensor")(model).modified
        assert "whole bytes" in log.entries[0].reason


def test_tied_weights_are_stored_once() -> None:
    text = "g (float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"
    result = shared(built(text, w=(64, 64)))
    assert [name for name in result.graph.initializers if name.startswith("w")] == ["w_q", "w_t", "w_s"]


def test_in_branches_and_functions() -> None:
    source = proto(
        """g (bool c, float[64] x) => (float[64] y)
        { y = If (c) <then_branch = t () => (float[64] a) { a = MatMul(x, w) },
                      else_branch = e () => (float[64] b) { b = Neg(x) }> }"""
    )
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    source.graph.node[0].attribute[0].g.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = ir.from_proto(source)
    result = shared(model)
    assert executed(result).histogram == executed(model).histogram
    for c in (True, False):
        feed = {"c": np.array(c), "x": np.random.default_rng(0).normal(size=64).astype(np.float32)}
        assert sqnr_db(run(model, feed)[0], run(result, feed)[0]) > 15

    message = proto("g (float[4,64] x) => (float[4,64] y) { y = custom.f(x) }")
    message.opset_import.add(domain="custom", version=1)
    nodes = [
        onnx.helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weight)),
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    opsets = [onnx.helper.make_opsetid("", 17)]
    message.functions.append(onnx.helper.make_function("custom", "f", ["x"], ["y"], nodes, opsets))
    model = ir.from_proto(message)
    result = shared(model)
    feed = {"x": np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)}
    assert sqnr_db(run(model, feed)[0], run(result, feed)[0]) > 15
    assert executed(result).histogram == {"MatMul": 1}


@pytest.mark.parametrize("weight", ["halves", "singles"])
def test_other_passes_leave_the_stored_form_alone(weight: str) -> None:
    array = np.random.default_rng(0).normal(size=(256, 96))
    model = built(PRODUCT, w=array * (1e-9 if weight == "singles" else 1))
    for per in PER:
        result = shared(model, per=per)
        part = "w_s" if per == "block" else "w_t"
        assert content(result, part).dtype == (np.float32 if weight == "singles" else np.float16)
        stored = ir.to_proto(result).SerializeToString()
        for other in (HalveWeights(min_sqnr_db=0), PackWeights(min_sqnr_db=0), CodebookWeights(entries=2, min_sqnr_db=0)):
            assert not other(result).modified, other.name
        assert ir.to_proto(result).SerializeToString() == stored
        FoldConstants()(result)
        assert "w_q" in result.graph.initializers


def test_what_is_left_alone() -> None:
    model = built(NET, **WEIGHTS)
    for options, reason in (
        ({"min_sqnr_db": 60.0}, "below 60"),
        ({"exclude": "w*"}, "excluded"),
        ({"entries": 256, "per": "channel"}, "tables of 256 values"),
    ):
        with collect_declines() as log:
            assert not CodebookWeights(**options)(model.clone()).modified  # type: ignore[arg-type]
        assert len(log.entries) == 4 and all(reason in entry.reason for entry in log.entries)
    assert set(CodebookWeights().stored(model)) == set(WEIGHTS)
    some = shared(model, only=("w1", "w3"))
    assert {name for name in some.graph.initializers if name.endswith("_q")} == {"w1_q", "w3_q"}
    spoilt = built(PRODUCT, w=np.full((256, 96), np.inf))
    with collect_declines() as log:
        assert not CodebookWeights()(spoilt).modified
    assert "not finite" in log.entries[0].reason
    old = built(PRODUCT, 10, w=(256, 96))
    with collect_declines() as log:
        assert not CodebookWeights()(old).modified and not CodebookWeights().stored(old)
    assert "opset 10" in log.entries[0].reason


@pytest.mark.parametrize("options", [{"entries": 1}, {"entries": 257}, {"per": "row"}, {"block": 0}, {"min_sqnr_db": -1.0}])
def test_options(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        CodebookWeights(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("per", PER)
def test_with_second_moments_outputs_are_nearer(per: str) -> None:
    """The inputs that count most meet the smallest weights."""
    loud = np.geomspace(0.05, 5, 256)
    weight = np.random.default_rng(0).normal(size=(256, 96)) / np.sqrt(loud)[:, None]
    model = built(PRODUCT.replace("[4,", "[n,"), w=weight)

    def feed(seed: int) -> dict[str, np.ndarray]:
        return {"x": (np.random.default_rng(seed).normal(size=(64, 256)) * loud).astype(np.float32)}

    moments = calibrate(model, [feed(seed) for seed in range(4)], tensors=["x"], second_moments=["x"])
    plain, weighed = shared(model, per=per), shared(model, per=per, inputs=moments)
    one, other = (sqnr_db(run(model, feed(9))[0], run(each, feed(9))[0]) for each in (plain, weighed))
    assert other > one + (0 if per == "block" else 1)
    assert serialized_size(plain) == serialized_size(weighed)
    renamed = dataclasses.replace(moments, states={"z": moments.states["x"]})
    assert content(shared(model, per=per, inputs=renamed), "w_t").tolist() == content(plain, "w_t").tolist()


@pytest.mark.parametrize("per", PER)
def test_what_is_promised_is_what_the_model_computes_with(per: str) -> None:
    model = built(NET, **WEIGHTS)
    books, result = CodebookWeights(per=per).stored(model), shared(model, per=per)  # type: ignore[arg-type]
    image = {"x": np.zeros((1, 16, 14, 14), np.float32)}
    assert set(books) == set(WEIGHTS)
    for name, book in books.items():
        np.testing.assert_array_equal(decoded(result, f"{name}_w", image), book.decode())
        parts = [content(result, f"{name}_{part}") for part in ("qts" if per == "block" else "qt")]
        assert sum(part.nbytes for part in parts) == book.nbytes
