"""Why a node of a quantized model computes in float: the decline of the quantizer, joined with real times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper

from onnxslim._ir import ir
from onnxslim.calibration.runner import calibrate
from onnxslim.model.io import save
from onnxslim.passes import QuantizeStatic
from onnxslim.passes.base import Decline, collect_declines
from onnxslim.recipes.evidence import with_profile, with_reasons
from onnxslim.report.measured import reason_table
from onnxslim.report.report import Report
from onnxslim.report.tables import tables
from tests.models import proto

NET = """g (float[1,64,28,28] x) => (float[1,64,28,28] y, float[1,64] p) {
    a = Conv<pads = [1,1,1,1]>(x, v)  r = Relu(a)  b = Conv<pads = [1,1,1,1]>(r, w)  t = Relu(b)
    c = Conv<pads = [1,1,1,1]>(t, u)  y = Exp(c)  g = GlobalAveragePool(y)  p = Flatten(g) }"""


def test_each_node_has_its_reason_and_its_share(tmp_path: Path) -> None:
    source, rng = proto(NET), np.random.default_rng(0)
    for name in "uvw":
        array = rng.normal(size=(64, 64, 3, 3)).astype(np.float32) / 24
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node, name in zip(
        source.graph.node, ["first", "relu", "second", "relu2", "third", "exp", "pool", "flat"], strict=True
    ):
        node.name = name
    model = ir.from_proto(source)
    save(model, tmp_path / "a.onnx")
    calibration = calibrate(model, [{"x": rng.normal(size=(1, 64, 28, 28)).astype(np.float32)}])
    with collect_declines() as log:
        QuantizeStatic(calibration, exclude="third, op:Gemm")(model)
    save(model, tmp_path / "b.onnx")
    report = Report(declined=tuple(log.entries))
    assert with_reasons(report, model) is report, "without a profile there is nothing to explain"
    report = with_reasons(with_profile(report, tmp_path / "a.onnx", tmp_path / "b.onnx"), model)
    assert report.profile is not None
    nodes = {node["output"]: node for node in report.profile["after"]["nodes"]}
    assert nodes["r"]["computes"] == nodes["t"]["computes"] == "integers" and not nodes["t"]["reason"]
    assert (nodes["c"]["computes"], nodes["c"]["reason"]) == ("floats", "excluded by the user")
    assert nodes["y"]["computes"] == "floats" and "no integer kernel for Exp" in nodes["y"]["reason"]
    assert nodes["p"]["reason"] == "only moves values"
    assert sum(node["share"] for node in nodes.values()) > 0.9
    table = reason_table(report)
    assert len(table.rows) == len(report.profile["after"]["nodes"]) and table in list(tables(report))


def test_a_node_that_the_runtime_quantizes_itself_is_told() -> None:
    model = ir.from_proto(proto("g (float[1,1,1] x) => (float[1,1,1] y) { a = Conv(x, x)  y = Abs(a) }"))
    kernel = {"output": "y", "op": "QLinearConv", "integer": True, "share": 1.0}
    report = Report(
        declined=(Decline("quantize-static", "a", "too noisy"),), profile={"after": {"nodes": [kernel]}}
    )
    explained = with_reasons(report, model).profile
    assert explained is not None
    assert explained["after"]["nodes"][0]["reason"].endswith("it was left: too noisy")


def test_a_node_that_a_later_pass_made_integer_needs_no_reason() -> None:
    text = """g (float[1,4] x, int8[4,4] w) => (float[1,4] y) {
        q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, w, z)  f = Cast<to=1>(i)  y = Mul(f, s) }"""
    kernel = {"output": "y", "op": "DynamicQuantizeMatMul", "integer": True, "share": 1.0}
    report = Report(
        declined=(Decline("quantize-static", "y", "too noisy"),), profile={"after": {"nodes": [kernel]}}
    )
    explained = with_reasons(report, ir.from_proto(proto(text))).profile
    assert explained is not None
    assert explained["after"]["nodes"][0]["reason"] == ""
