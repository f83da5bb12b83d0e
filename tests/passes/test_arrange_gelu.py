"""The order of the parts of a Gelu: the same numbers, and a kernel that onnxruntime had not seen before."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.passes.arrange_gelu import ArrangeGelu
from onnxslim.recipes.pipeline import Pipeline
from onnxslim.runtime.kernels import executed
from tests.models import model, run

HEAD = """g (float[n, 64] x) => (float[n, 64] y)
<float s = {1.4142135381698608}, float r = {0.7071067690849304}, float one = {1}, float half = {0.5}, float two = {2}> """
FORMS = {
    "exporter": "{ d = Div(x, s) e = Erf(d) a = Add(e, one) m = Mul(half, a) y = Mul(x, m) }",
    "turned": "{ d = Div(x, s) e = Erf(d) a = Add(one, e) m = Mul(a, half) y = Mul(m, x) }",
}
OTHERS = {
    "a product that onnxruntime does not know": "{ d = Mul(x, r) e = Erf(d) a = Add(e, one) m = Mul(half, a) y = Mul(x, m) }",
    "another factor": "{ d = Div(x, s) e = Erf(d) a = Add(e, one) m = Mul(two, a) y = Mul(x, m) }",
    "another sum": "{ d = Div(x, s) e = Erf(d) a = Add(e, two) m = Mul(half, a) y = Mul(x, m) }",
    "of another value": "{ z = Neg(x) d = Div(z, s) e = Erf(d) a = Add(e, one) m = Mul(half, a) y = Mul(x, m) }",
    "no error function": "{ d = Div(x, s) e = Tanh(d) a = Add(e, one) m = Mul(half, a) y = Mul(x, m) }",
    "read by others": """{ d = Div(x, s) e = Erf(d) a = Add(e, one) m = Mul(half, a) p = Mul(x, m) y = Add(p, m) }""",
    "known already": "{ d = Div(x, s) e = Erf(d) a = Add(e, one) h = Mul(x, half) y = Mul(h, a) }",
}


def feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    magnitudes = np.geomspace(1e-30, 1e30, 64).astype(np.float32)
    return {"x": np.concatenate([rng.normal(size=(8, 64)) * 3, magnitudes[None], -magnitudes[None]]).astype("f")}


@pytest.mark.parametrize("form", FORMS)
def test_one_kernel_and_the_same_bits(form: str) -> None:
    before, after = model(HEAD + FORMS[form]), model(HEAD + FORMS[form])
    assert "Gelu" not in executed(before).histogram
    assert ArrangeGelu()(after).modified and not ArrangeGelu()(after).modified
    assert executed(after).histogram == {"Gelu": 1}
    np.testing.assert_array_equal(run(after, feed())[0], run(before, feed())[0])


@pytest.mark.parametrize("form", OTHERS)
def test_what_is_no_such_gelu_stays(form: str) -> None:
    source = model(HEAD + OTHERS[form])
    assert not ArrangeGelu()(source).modified


def test_inside_a_branch() -> None:
    text = """g (float[4] x, bool c) => (float[4] y) {
        y = If(c) <then_branch = t () => (float[4] p) <float s = {1.4142135}, float one = {1}, float half = {0.5}> {
                       d = Div(x, s) e = Erf(d) a = Add(e, one) m = Mul(half, a) p = Mul(x, m) },
                   else_branch = f () => (float[4] q) { q = Neg(x) }> }"""
    result = Pipeline((ArrangeGelu(),)).run(model(text))
    assert result.report.passes[0].modified and result.report.verification["ok"]
    assert isinstance(result.model, ir.Model)
