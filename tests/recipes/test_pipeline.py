"""What comes out of the public pipeline, and what is saved of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

import onnxslim
from onnxslim.passes import EliminateNoops, RemoveDeadCode
from tests import models

GRAPH = "g (float[2] x) => (float[2] y) { dead = Neg(x) a = Identity(x) y = Relu(a) }"
TIGHT = "g (float[2] x) => (float[2] y) { y = Relu(x) }"


def test_a_pipeline_verifies_and_reports() -> None:
    proto = models.proto(GRAPH)
    before = proto.SerializeToString()
    result = onnxslim.Pipeline((RemoveDeadCode(), EliminateNoops())).run(proto)
    x = {"x": np.array([-1, 2], np.float32)}
    assert models.bit_equal(models.run(result.model, x)[0], models.run(proto, x)[0])
    assert [node.op_type for node in result.to_proto().graph.node] == ["Relu"]
    assert result.report.verification is not None
    assert result.report.verification["ok"]
    assert [record.modified for record in result.report.passes] == [True, True]
    assert proto.SerializeToString() == before, "the caller's object was changed"


def test_unverified_is_said() -> None:
    result = onnxslim.Pipeline((RemoveDeadCode(),), verify=False).run(models.proto(GRAPH))
    assert result.report.verification is None
    assert "not verified: switched off" in result.report.notes


def test_an_unchanged_model_is_saved_bit_for_bit(tmp_path: Path) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    proto = models.proto(TIGHT)
    # an unknown field, which no parser but protobuf's own would keep
    content = proto.SerializeToString() + b"\xfa\x3e\x03abc"
    path.write_bytes(content)
    result = onnxslim.simplify(path)
    info = result.save(out)
    assert out.read_bytes() == content
    assert info.bytes == len(content)
    assert info.nodes == 1


def test_a_changed_model_is_not_the_copy(tmp_path: Path) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(models.proto(GRAPH), path)
    onnxslim.simplify(path).save(out)
    assert out.stat().st_size < path.stat().st_size


def test_the_operator_set_is_raised_on_demand() -> None:
    old = models.proto("g (float[4] x) => (float[2] y) { y = Slice<starts=[0], ends=[2]>(x) }", opset=9)
    result = onnxslim.simplify(old, opset=17)
    x = {"x": np.array([1, 2, 3, 4], np.float32)}
    assert result.model.opset_imports[""] == 17
    assert result.model.ir_version >= 8
    onnx.checker.check_model(result.to_proto())
    assert models.bit_equal(models.run(result.model, x)[0], models.run(old, x)[0])
