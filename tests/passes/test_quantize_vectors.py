"""Product quantization in a model: what is stored, what the runtime makes of it, what is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.errors import OptionError
from onnxslim.model.io import serialized_size
from onnxslim.passes.base import collect_declines
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.fold_constants import FoldConstants
from onnxslim.passes.halve_weights import HalveWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_vectors import QuantizeVectors
from onnxslim.reconstruct.codebook import code_bits
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import run
from tests.passes.test_codebook_weights import PRODUCT, built, content, decoded
from tests.passes.test_few_bits import NET, WEIGHTS

PER = ("tensor", "space")
LOOKUP = "g ({kind} i) => (float[{rows}1024] y) {{ y = Gather(w, i) }}"


def shared(model: ir.Model, **options: object) -> ir.Model:
    result, step = model.clone(), QuantizeVectors(**{"min_sqnr_db": 0.0, **options})  # type: ignore[arg-type]
    before = serialized_size(result)
    assert step(result).modified and serialized_size(result) < before
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    assert not step(result).modified, "a second time there is nothing to do"
    return result


def looked_up(model: ir.Model, entries: int, vector: int, shape: tuple[int, int], *, lookup: bool) -> np.ndarray:
    """The weight of a product or a lookup, read out of the stored bytes and tables alone, value by value."""
    data, table = content(model, "w_q"), content(model, "w_t").astype(np.float32)
    scale = content(model, "w_s").astype(np.float32).reshape(-1)
    bits, spaces = code_bits(entries), len(table) // entries
    found = np.empty(shape, np.float32)
    runs = -(-found.size // vector // (8 // bits))
    for row, column in np.ndindex(*shape):
        if lookup:
            space, packed = column // vector, data.reshape(len(scale), -1)[row]
            byte, part = packed[space % len(packed)], space // len(packed)
        else:
            space = row // vector
            at = space * shape[1] + column
            byte, part = data.reshape(-1)[at % runs], at // runs
        code = (int(byte) >> (bits * part)) % 2**bits + (entries * space if spaces > 1 else 0)
        within = (column if lookup else row) % vector
        found[row, column] = table[code, within] * scale[row if lookup else column]
    return found


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize(("entries", "vector"), [(2, 2), (4, 4), (16, 8), (256, 4)])
def test_the_runtime_looks_up_the_very_bits_that_are_stored(
    opset: int, per: str, entries: int, vector: int
) -> None:
    shape = (16, 1500) if entries == 256 else (256, 96)
    model = built(PRODUCT.replace("256", str(shape[0])).replace("96", str(shape[1])), opset, w=shape)
    result = shared(model, entries=entries, vector=vector, per=per)
    feed = {"x": np.random.default_rng(1).normal(size=(4, shape[0])).astype(np.float32)}
    weight = decoded(result, "w_w", feed)
    expected = looked_up(result, entries, vector, shape, lookup=False)
    np.testing.assert_array_equal(weight.view(np.uint32), expected.view(np.uint32))
    promised = QuantizeVectors(entries, vector, per, min_sqnr_db=0).stored(model)["w"]  # type: ignore[arg-type]
    np.testing.assert_array_equal(weight, promised.decode())
    assert sum(content(result, f"w_{part}").nbytes for part in "qts") == promised.nbytes
    for level in ("basic", "all"):
        assert executed(result, optimize=level).histogram == {"MatMul": 1}


@pytest.mark.parametrize(
    ("entries", "vector", "per"),
    [(4, 2, "tensor"), (4, 8, "space"), (16, 4, "space"), (256, 4, "tensor"), (256, 8, "tensor")],
)
@pytest.mark.parametrize("indices", [np.array([[0, 299, -1], [7, 7, 123]]), np.array(5)], ids=["2d", "0d"])
def test_rows_of_a_large_table_are_gathered_packed(
    entries: int, vector: int, per: str, indices: np.ndarray
) -> None:
    kind, rows = ("int64[2,3]", "2,3,") if indices.ndim else ("int64", "")
    model = built(LOOKUP.format(kind=kind, rows=rows), w=(300, 1024))
    result = shared(model, entries=entries, vector=vector, per=per)
    reads = [kernel for kernel in executed(result).kernels if kernel.op_type == "Gather"]
    assert any("w_q" in kernel.inputs for kernel in reads)
    assert all(value.uses() or value.is_graph_output() for node in result.graph for value in node.outputs)
    [found] = run(result, {"i": indices})
    expected = looked_up(result, entries, vector, (300, 1024), lookup=True)
    np.testing.assert_array_equal(found, expected[indices])
    for other in (HalveWeights(), PackWeights(), CodebookWeights()):
        assert not other(result).modified


def test_the_decoded_table_never_exists() -> None:
    """Nothing that is computed is as large as the table, also before anything is optimized."""
    model = built(LOOKUP.format(kind="int64[3]", rows="3,"), w=(300, 1024))
    result = shared(model)
    message = onnx.shape_inference.infer_shapes(ir.to_proto(result), strict_mode=True, data_prop=True)
    sizes = [
        int(np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim]))
        for value in message.graph.value_info
    ]
    assert sizes and max(sizes) <= max(3 * 1024, 300 * 256), "rows, and codes that are stored"


@pytest.mark.parametrize("vector", [2, 4])
def test_the_kernels_are_those_of_the_original(vector: int) -> None:
    model = built(NET, **WEIGHTS)
    result = shared(model, entries=16, vector=vector)
    for level in ("basic", "all"):
        assert executed(result, optimize=level).histogram == executed(model, optimize=level).histogram
    assert not any(name in result.graph.initializers for name in WEIGHTS)
    image = {"x": np.random.default_rng(0).normal(size=(1, 16, 14, 14)).astype(np.float32)}
    [one], [other] = run(model, image), run(result, image)
    assert sqnr_db(one, other) > (2 if vector == 4 else 6)


def test_other_passes_leave_the_stored_form_alone() -> None:
    for size in (1.0, 1e-9):
        model = built(PRODUCT, w=np.random.default_rng(0).normal(size=(256, 96)) * size)
        result = shared(model, entries=16)
        stored = ir.to_proto(result).SerializeToString()
        for other in (HalveWeights(min_sqnr_db=0), PackWeights(min_sqnr_db=0), CodebookWeights(min_sqnr_db=0)):
            assert not other(result).modified, other.name
        assert ir.to_proto(result).SerializeToString() == stored
        FoldConstants()(result)
        assert "w_q" in result.graph.initializers


def test_tied_weights_are_stored_once() -> None:
    text = "g (float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"
    result = shared(built(text, w=(64, 64)), entries=16)
    assert [name for name in result.graph.initializers if name.startswith("w")] == ["w_q", "w_t", "w_s"]


def test_with_second_moments_outputs_are_nearer() -> None:
    """Of inputs that have much in common."""
    mix = np.random.default_rng(5).normal(size=(256, 256))
    model = built(PRODUCT.replace("[4,", "[n,"), w=(256, 96))

    def feed(seed: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        x = random.normal(size=(256, 256)) + random.normal(size=(256, 16)) @ mix[:16]
        return {"x": x.astype(np.float32)}

    fit, held_out = (
        calibrate(model, [feed(seed) for seed in seeds], tensors=["x"], second_moments=["x"])
        for seeds in (range(4), range(4, 6))
    )
    options = ({}, {"inputs": fit, "held_out": held_out})
    found = [shared(model, entries=16, vector=2, **each) for each in options]
    quality = [sqnr_db(run(model, feed(9))[0], run(each, feed(9))[0]) for each in found]
    assert quality[1] > quality[0] + 1
    assert len({serialized_size(each) for each in found}) == 1


def test_what_is_left_alone() -> None:
    model = built(NET, **WEIGHTS)
    for options, reason in (
        ({"entries": 16, "min_sqnr_db": 60.0}, "below 60"),
        ({"exclude": "w*"}, "excluded"),
        ({"entries": 256, "per": "space"}, "table of 256 vectors"),
    ):
        with collect_declines() as log:
            assert not QuantizeVectors(**options)(model.clone()).modified  # type: ignore[arg-type]
        assert len(log.entries) == 4 and all(reason in entry.reason for entry in log.entries)
    some = shared(model, entries=16, only=("w1", "w3"))
    assert {name for name in some.graph.initializers if name.endswith("_q")} == {"w1_q", "w3_q"}
    for text, weight, reason in (
        (PRODUCT, np.full((256, 96), np.inf), "not finite"),
        (PRODUCT.replace("256", "255"), np.ones((255, 96)), "255, cannot be cut into vectors of 4"),
        (LOOKUP.format(kind="int64[3]", rows="3,50,"), np.ones((50, 50, 1024)), "whole bytes"),
    ):
        with collect_declines() as log:
            assert not QuantizeVectors()(built(text, w=weight)).modified
        assert reason in log.entries[0].reason
    old = built(PRODUCT, 10, w=(256, 96))
    with collect_declines() as log:
        assert not QuantizeVectors()(old).modified and not QuantizeVectors().stored(old)
    assert "opset 10" in log.entries[0].reason


@pytest.mark.parametrize(
    "options", [{"entries": 1}, {"entries": 257}, {"per": "row"}, {"vector": 3}, {"min_sqnr_db": -1.0}]
)
def test_options(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        QuantizeVectors(**options)  # type: ignore[arg-type]
