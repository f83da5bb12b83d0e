"""Weights in blocks of few bits: what is computed, what the runtime makes of it, what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.reference
import onnxruntime as ort
import pytest

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.passes.base import collect_declines
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_blocks import QuantizeBlocks
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.storage import inputs_of_weights
from onnxslim.runtime.kernels import executed
from tests.models import run
from tests.passes.test_quantize_static import built, feeds, quality

Array = np.ndarray[Any, Any]

TEXT = "g (float[1,512] x) => (float[1,256] y) { y = MatMul(x, w) }"
GEMM = "g (float[1,512] x) => (float[1,256] y) { m = Gemm <transB=1> (x, w, b)  y = Relu(m) }"


def blocked(model: ir.Model, **options: Any) -> tuple[ir.Model, list[str]]:
    """The quantized copy, and the reasons for what was left alone."""
    result = model.clone()
    RaiseOpset(opset=25 if options.get("bits", 4) in (1, 2) else 21)(result)
    with collect_declines() as log:
        QuantizeBlocks(**options)(result)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    return result, [f"{decline.node}: {decline.reason}" for decline in log.entries]


def decoded(model: ir.Model, block: int) -> Array:
    """The weight by the standard's text: (code - zero point) * scale, one of each for every block of rows."""
    stored = {
        name.removeprefix("w_"): onnx.numpy_helper.to_array(ir.to_proto(value.const_value)).astype(np.float64)
        for name, value in model.graph.initializers.items()
        if name.startswith("w_")
    }
    scale = np.repeat(stored["scale"], block, axis=0)
    zero = np.repeat(stored["zero_point"], block, axis=0) if "zero_point" in stored else 0
    return np.asarray((stored["quantized"] - zero) * scale)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("bits", "block"), [(8, 128), (4, 32), (4, 128), (2, 128), (1, 128)])
@pytest.mark.parametrize(
    ("text", "weights"),
    [(TEXT, {"w": (512, 256)}), (GEMM, {"w": (256, 512), "b": (256,)})],
    ids=["MatMul", "Gemm"],
)
def test_it_computes_what_the_standard_says_in_one_kernel(
    text: str, weights: dict[str, tuple[int, ...]], bits: int, block: int, symmetric: bool
) -> None:
    model = built(text, **weights)
    result, declined = blocked(model, bits=bits, block=block, symmetric=symmetric, narrow_sqnr_db=0)
    assert not declined
    histogram = executed(result).histogram
    assert histogram == ({"MatMulNBits": 1} if "b" not in weights else {"MatMulNBits": 1, "Max": 1})
    weight, scheme = decoded(result, block), {8: "INT8", 4: "INT4", 2: "INT2", 1: "INT2"}[bits]
    [codes] = [v for name, v in result.graph.initializers.items() if name == "w_quantized"]
    assert codes.dtype is not None and codes.dtype.name == (scheme if symmetric or bits == 1 else f"U{scheme}")
    original = edit.constant_value(model.graph.initializers["w"])
    assert original is not None
    noise = np.square(weight - (original.T if "b" in weights else original)).sum() / np.square(original).sum()
    assert -10 * np.log10(noise) > {8: 40, 4: 16, 2: 4, 1: 3}[bits]
    for feed in feeds(model, 2):
        wanted = feed["x"].astype(np.float64) @ weight
        if "b" in weights:
            bias = edit.constant_value(model.graph.initializers["b"])
            assert bias is not None
            wanted = np.maximum(wanted + bias, 0)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(run(result, feed)[0], wanted, atol=1e-5 * scale)
        session = ort.InferenceSession(ir.to_proto(result).SerializeToString())
        np.testing.assert_allclose(session.run(None, feed)[0], wanted, atol=0.02 * scale)  # computes in 8 bits
        if bits > 2:  # the evaluator does not know 2
            evaluator = onnx.reference.ReferenceEvaluator(ir.to_proto(result))
            np.testing.assert_allclose(evaluator.run(None, feed)[0], wanted, atol=1e-5 * scale)
    assert not QuantizeBlocks(bits=bits, block=block)(result).modified  # type: ignore[arg-type]


def test_the_file_shrinks_and_other_passes_leave_the_scales_alone() -> None:
    result, _ = blocked(built(TEXT.replace("256", "2048"), w=(512, 2048)))
    before = executed(result).histogram
    assert not PackWeights()(result).modified and executed(result).histogram == before
    assert result.graph.initializers["w_quantized"].const_value.nbytes == 512 * 2048 // 2  # type: ignore[union-attr]


def test_weights_that_few_bits_leave_noisy_have_8() -> None:
    model = built(
        "g (float[1,512] x) => (float[1,512] y) { a = MatMul(x, w)  y = MatMul(a, v) }", w=(512, 512), v=(512, 512)
    )
    result, _ = blocked(model, only=("w",))
    assert "v" in result.graph.initializers and "w_quantized" in result.graph.initializers
    assert set(QuantizeBlocks(only=("v",)).stored(model)) == {"v"}
    result, declined = blocked(model, narrow_sqnr_db=99)
    assert {value.dtype for value in result.graph.initializers.values()} == {ir.DataType.INT8, ir.DataType.FLOAT}
    assert "it has 8" in declined[0]


@pytest.mark.parametrize("bias", ["", "a = Add(m, b)"], ids=["product", "bias"])
def test_a_relu_does_not_hide_the_product(bias: str) -> None:
    """Fails when onnxruntime no longer needs the detour, too: see ``_as_max``."""
    model = built(
        f"""g (float[n,512] x) => (float[n,512] y) {{
            m = MatMul(x, w) {bias}  r = Relu({"a" if bias else "m"})  k = MatMul(r, v)  y = Neg(k) }}""",
        w=(512, 512),
        v=(512, 512),
        **({"b": (512,)} if bias else {}),
    )
    result, declined = blocked(model, bits=8, dims={"n": 1})
    assert not declined and executed(result).histogram == {"MatMulNBits": 2, "Max": 1, "Neg": 1}
    assert "r" in {node.outputs[0].name for node in result.graph} and quality(model, result) > 40


def test_what_does_not_become_the_kernel_goes_back() -> None:
    """onnxruntime makes a Gemm of a product and what is added to it, where both are matrices."""
    text = "g (float[1,512] x) => (float[1,512] y) { m = MatMul(x, w)  s = Add(m, x)  y = Erf(s) }"
    model = built(text, w=(512, 512))
    result, declined = blocked(model)
    assert declined == ["m: the runtime does not make MatMulNBits of it"]
    assert ir.to_proto(result).graph == ir.to_proto(blocked(model, max_rows=0)[0]).graph


def test_known_inputs_make_the_outputs_better() -> None:
    model, rng = built(TEXT, w=(512, 256)), np.random.default_rng(0)
    mixing = rng.normal(size=(24, 512))

    def drawn(count: int) -> list[dict[str, Array]]:
        return [{"x": (rng.normal(size=(1, 24)) @ mixing).astype(np.float32)} for _ in range(count)]

    moments = inputs_of_weights(model, drawn(64))
    nearest, fitted = blocked(model)[0], blocked(model, inputs=moments)[0]

    def error(other: ir.Model) -> float:
        return sum(float(np.square(run(model, feed)[0] - run(other, feed)[0]).sum()) for feed in drawn(8))

    assert error(fitted) < 0.5 * error(nearest)


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        ("g (float[9,512] x) => (float[9,256] y) { y = MatMul(x, w) }", {"w": (512, 256)}, "9 rows"),
        ("g (float[1,n,512] x) => (float[1,n,256] y) { y = MatMul(x, w) }", {"w": (512, 256)}, "rows of input"),
        ("g (float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }", {"w": (64, 64)}, "4096 elements"),
        ("g (float[1,520] x) => (float[1,256] y) { y = MatMul(x, w) }", {"w": (520, 256)}, "powers of two"),
        (
            "g (float[1,512] x, int64[1] i) => (float[1,256] y) { g = Gather(w, i)  m = MatMul(x, w)  y = Add(m, g) }",
            {"w": (512, 256)},
            "other readers",
        ),
        ("g (float[1,512] x) => (o) { o = Gemm <alpha=0.5> (x, w) }", {"w": (512, 256)}, "alpha"),
    ],
    ids=["rows", "open rows", "small", "length", "tied", "alpha"],
)
def test_what_is_left_alone(text: str, weights: dict[str, tuple[int, ...]], reason: str) -> None:
    result, declined = blocked(built(text, **weights))
    assert any(reason in why for why in declined), declined
    assert "DequantizeLinear" not in {node.op_type for node in result.graph}


def test_open_dimensions_can_be_told() -> None:
    model = built("g (float[1,n,512] x) => (float[1,n,256] y) { y = MatMul(x, w) }", w=(512, 256))
    assert executed(blocked(model, dims={"n": 2})[0]).histogram == {"MatMulNBits": 1}
    assert blocked(model, exclude="op:MatMul", dims={"n": 2})[1] == ["y: excluded by the user"]


def test_options_and_operator_sets() -> None:
    for wrong in ({"bits": 3}, {"block": 48}, {"block": 8}):
        with pytest.raises(OptionError):
            QuantizeBlocks(**wrong)  # type: ignore[arg-type]
    model = built(TEXT, opset=21, w=(512, 256))
    for options in ({"bits": 2}, {}):
        with collect_declines() as log:
            assert QuantizeBlocks(**options)(model).modified is (not options)  # type: ignore[arg-type]
        assert [("opset 25" in decline.reason) for decline in log.entries] == [True] * len(options)
