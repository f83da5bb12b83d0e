"""Folding, no-ops and common subexpressions on generated graphs, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.model.io import serialized_size
from onnxslim.passes.compose_movements import ComposeMovements
from onnxslim.passes.deduplicate_initializers import DeduplicateInitializers
from onnxslim.passes.eliminate_noops import EliminateNoops
from onnxslim.passes.fold_constants import FoldConstants
from onnxslim.passes.merge_common_subexpressions import MergeCommonSubexpressions
from onnxslim.passes.remove_dead_code import RemoveDeadCode
from tests.models import bit_equal, proto, run

EXACT = (
    FoldConstants(),
    EliminateNoops(),
    ComposeMovements(),
    MergeCommonSubexpressions(),
    DeduplicateInitializers(),
    RemoveDeadCode(),
)
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min")
UNARY = ("Neg", "Abs", "Sqrt", "Relu", "Identity", "Floor", "Transpose<perm=[1,0]>")
NUMBERS = st.sampled_from(["0", "1", "-1", "-0.0", "2.5", "1e-39"])


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Chains and joins over an input and four constants, some outputs taken from the middle."""
    values = ["x", *(f"c{i}" for i in range(4))]
    nodes = []
    for i in range(draw(st.integers(1, 14))):
        if draw(st.booleans()):
            a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
            nodes.append(f"v{i} = {draw(st.sampled_from(BINARY))}({a}, {b})")
        else:
            nodes.append(f"v{i} = {draw(st.sampled_from(UNARY))}({draw(st.sampled_from(values))})")
        values.append(f"v{i}")
    outputs = draw(st.lists(st.sampled_from(values[5:]), min_size=1, max_size=3, unique=True))
    constants = ", ".join(
        f"float[2,2] c{i} = {{{', '.join(draw(NUMBERS) for _ in range(4))}}}" for i in range(4)
    )
    results = ", ".join(f"float[2,2] {name}" for name in outputs)
    return proto(f"g (float[2,2] x) => ({results}) <{constants}> {{ {'  '.join(nodes)} }}")


@given(graphs())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_exact_passes_keep_every_bit_and_never_grow(original: onnx.ModelProto) -> None:
    feed = {"x": np.float32([[1, -0.0], [np.nan, 3e38]])}
    expected = run(original, feed)
    model = ir.from_proto(original)
    size = serialized_size(model)
    for p in EXACT * 2:
        p(model)
        assert not p(model).modified, f"{p.name} is done after one run"
        for a, b in zip(expected, run(model, feed), strict=True):
            assert bit_equal(a, b), p.name
        assert serialized_size(model) <= size + 2, p.name  # the estimate itself is good to a few bytes
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
