"""Per-node times: joined by output name, integer kernels and leftovers told from the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from onnxslim.errors import ModelError
from onnxslim.measure.profile import NodeTime, Profile, join, profile, summarize
from onnxslim.measure.setting import Inputs
from tests.models import model, proto

TEXT = """
g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y)
<float[8, 8, 3, 3] w = {WEIGHTS}> {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    r = Relu(c)
    y = Sigmoid(r)
}
"""
QDQ = """
g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y)
<float s = {0.02}, uint8 z = {128}, uint8 zr = {0}, float ws = {0.01}, int8 wz = {0},
 int8[8, 8, 3, 3] w = {WEIGHTS}> {
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    wd = DequantizeLinear(w, ws, wz)
    c = Conv <pads = [1, 1, 1, 1]> (xd, wd)
    r = Relu(c)
    rq = QuantizeLinear(r, s, zr)
    rd = DequantizeLinear(rq, s, zr)
    y = Sigmoid(rd)
}
"""


def filled(text: str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    values = ", ".join(str(v) for v in rng.integers(-9, 9, 8 * 8 * 9))
    return proto(text.replace("WEIGHTS", values))


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs(({"x": np.random.default_rng(1).normal(size=(1, 8, 16, 16)).astype(np.float32)},))


def test_float_and_integer_forms_are_joined(inputs: Inputs) -> None:
    before = profile(filled(TEXT), inputs, seconds=0.05)
    after = profile(filled(QDQ), inputs, seconds=0.05)
    assert before.integer == 0 and before.leftover == ()
    assert after.integer == 1 and after.kernels["QLinearConv"] == 1
    assert "xq" in after.leftover and "rq" not in after.leftover
    rows = {row["output"]: row for row in join(before, after)}
    assert rows["r"]["before"]["op"] == "Conv"
    assert rows["r"]["after"]["op"] == "QLinearConv"  # by the float value that its output quantizes
    assert rows["y"]["before"]["op"] == rows["y"]["after"]["op"] == "Sigmoid"


def test_shares_and_totals_agree(inputs: Inputs) -> None:
    found = profile(filled(TEXT), inputs, seconds=0.05)
    assert sum(node.share for node in found.nodes) == pytest.approx(1)
    assert sum(node.us for node in found.nodes) == pytest.approx(found.total_us)
    assert found.providers == {"CPUExecutionProvider": len(found.nodes)}
    assert [node.us for node in found.nodes] == sorted((node.us for node in found.nodes), reverse=True)


def test_nodes_without_names_and_with_equal_names_are_told_apart() -> None:
    source = proto("g (float[9] x) => (float[9] y) { a = Neg(x) b = Exp(a) y = Neg(b) }")
    inputs = Inputs(({"x": np.ones(9, np.float32)},))
    expected = {("a", "Neg"), ("b", "Exp"), ("y", "Neg")}
    for name in ("", "same"):
        for node in source.graph.node:
            node.name = name
        before = source.SerializeToString()
        found = profile(source, inputs, seconds=0.01)
        assert {(node.output, node.op) for node in found.nodes} == expected
        assert source.SerializeToString() == before


def test_external_data_of_a_renamed_model_are_found(tmp_path: Path) -> None:
    weight = oh.make_tensor(
        "w", onnx.TensorProto.FLOAT, [64, 64], np.ones(4096, np.float32).tobytes(), raw=True
    )
    source = proto("g (float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, w) }")
    source.graph.initializer.append(weight)
    path = tmp_path / "m.onnx"
    onnx.save(source, path, save_as_external_data=True, location="m.data", size_threshold=0)
    found = profile(path, Inputs(({"x": np.ones((1, 64), np.float32)},)), seconds=0.01)
    assert [node.output for node in found.nodes] == ["y"]


def test_bodies_are_counted_once() -> None:
    source = proto("""g (float[9] x, bool c) => (float[9] y) {
        y = If(c) <then_branch = t () => (float[9] a) { a = Neg(x) },
                   else_branch = e () => (float[9] b) { b = Exp(x) }> }""")
    feed = {"x": np.ones(9, np.float32), "c": np.array(True)}
    found = profile(source, Inputs((feed,)), seconds=0.01)
    assert {node.op for node in found.nodes} == {"Neg"}


def test_an_ir_model_and_one_that_fails(inputs: Inputs) -> None:
    found = profile(
        model("g (float[9] x) => (float[9] y) { y = Neg(x) }"), Inputs(({"x": np.ones(9, np.float32)},))
    )
    assert found.nodes[0].op == "Neg"
    with pytest.raises(ModelError, match="NoSuchOp"):
        profile(proto("g (float[2] x) => (float[2] y) { y = NoSuchOp(x) }"), inputs)
    with pytest.raises(ModelError):
        profile(filled(TEXT), Inputs(({"x": np.ones((1, 1), np.float32)},)))


def event(name: str, ts: int, dur: int, **args: str) -> dict[str, object]:
    return {"cat": "Node" if args else "Session", "name": name, "ts": ts, "dur": dur, "args": args}


def test_the_cold_run_and_the_slow_quarter_do_not_count() -> None:
    events = [
        event("model_run", 0, 100),
        event("a_kernel_time", 10, 90, op_name="Neg", provider="P", node_index="0"),
    ]
    for i, dur in enumerate((4, 6, 5, 1000)):
        events.append(event("model_run", 1000 * (i + 1), 900))
        events.append(
            event("a_kernel_time", 1000 * (i + 1) + 1, dur, op_name="Neg", provider="P", node_index="0")
        )
    found = summarize(events, None)
    assert found.runs == 4 and found.nodes == (NodeTime("a", "Neg", "P", 5.0, 1.0, False),)


def test_join_keeps_what_only_one_side_has() -> None:
    def made(**nodes: float) -> Profile:
        times = tuple(NodeTime(name, "Neg", "P", us, 0.5, False) for name, us in nodes.items())
        return Profile(1, sum(nodes.values()), times, {}, 0, (), {})

    rows = join(made(a=5.0, b=1.0), made(b=9.0, c=2.0))
    assert [row["output"] for row in rows] == ["b", "a", "c"]
    assert rows[1]["after"] is None and rows[2]["before"] is None
