"""Losses of one's own: what they compute, what they learn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.cli import main
from onnxslim.distillation.engine import Engine
from onnxslim.distillation.losses import Term
from onnxslim.distillation.own_loss import read_loss
from onnxslim.distillation.students import find_student
from onnxslim.errors import CalibrationError, ModelError, OptionError
from onnxslim.model import edit
from onnxslim.runtime.client import open_worker
from tests.distillation.nets import deep, feeds, noisy, rows, wide, with_arrays
from tests.models import run

SHORT: dict[str, Any] = {"steps": 60, "rate": 0.005, "threads": 1}
_MEAN = "d = Sub(a, b)  q = Abs(d)  l = ReduceMean<keepdims = 0>(q)"


def loss(
    body: str = _MEAN,
    names: tuple[str, ...] = ("student.y", "teacher.y"),
    inputs: str = "float[n,4] a, float[n,4] b",
    *,
    result: str = "float l",
    opset: int = 18,
) -> ir.Model:
    """A graph whose inputs get these names."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({result}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for value, name in zip(proto.graph.input, names, strict=True):
        for node in proto.graph.node:
            node.input[:] = [name if each == value.name else each for each in node.input]
        value.name = name
    onnx.checker.check_model(proto)
    found: ir.Model = ir.from_proto(proto)
    edit.know_names(found)
    return found


def apart(student: ir.Model, teacher: ir.Model, x: Any) -> float:
    [one], [other] = run(student, {"x": x}), run(teacher, {"x": x})
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_what_it_says_is_what_falls(opset: int) -> None:
    student, teacher = noisy(), wide()
    found = onnxslim.distill(student, teacher, feeds(100), loss=loss(opset=opset), augment=False, **SHORT)
    told = found.report.distillation
    assert told is not None and [term["name"] for term in told["terms"]] == ["own loss"]
    assert told["terms"][0]["weight"] == 1.0 and told["terms"][0]["after"] < 0.7 * told["terms"][0]["before"]
    assert apart(found.model, teacher, rows(200, seed=9)) < 0.8 * apart(student, teacher, rows(200, seed=9))
    assert told["looks"][0]["agreement"] < 1  # of classes, whatever the loss is


def test_its_gradient_is_that_of_our_own_loss_written_as_a_graph() -> None:
    """A mean of squares, in one step of plain descent."""
    text = "g (float[n,8] x) => (float[n,4] y) { h = MatMul(x, w)  r = Relu(h)  y = Sigmoid(r) }"
    rng = np.random.default_rng(0)
    student, teacher = (with_arrays(text, {"w": rng.normal(size=(8, 4)).astype("f")}) for _ in range(2))
    terms = [Term("mse", "y", "y")]
    own = read_loss(loss("d = Sub(a, b)  s = Mul(d, d)  l = ReduceMean<keepdims = 0>(s)"), student, teacher)
    x, found = rows(16), []
    with open_worker() as worker:
        for engine in (
            Engine(worker, find_student(worker, student), teacher, terms),
            Engine(
                worker, find_student(worker, student), teacher, [own.term], own_loss=own, compared=terms[0]
            ),
        ):
            said = engine.other.run({"x": x})
            found.append(
                engine.step({"x": x}, {"teacher/y": said["y"]}, {"w": engine.student.forms["w"].value()})
            )
            judged = (
                engine.measure(engine.own.run({"x": x}, {"w": engine.student.forms["w"].value()}), said, None)
                if engine.own_loss
                else found[0][0]
            )
    assert found[0][0] == pytest.approx(found[1][0]) == pytest.approx(judged)
    np.testing.assert_allclose(found[0][1]["w"], found[1][1]["w"], rtol=1e-5)


def test_labels_are_given_to_a_loss_that_reads_them() -> None:
    x = rows(200)
    data = {"x": x, "__labels__": run(wide(), {"x": x})[0].argmax(1)}
    body = """p = Log(a)  z = Constant<value_ints = [1]>()  i = Unsqueeze(b, z)
        g = GatherElements<axis = 1>(p, i)  m = ReduceMean<keepdims = 0>(g)  l = Neg(m)"""
    own = loss(body, ("student.y", "labels"), "float[n,4] a, int64[n] b")
    found = onnxslim.distill(noisy(0.8), wide(), data, loss=own, **SHORT)
    told = found.report.distillation
    assert told is not None and told["terms"][0]["after"] < told["terms"][0]["before"]
    with pytest.raises(CalibrationError, match="no labels"):
        onnxslim.distill(noisy(), wide(), feeds(40), loss=own, **SHORT)


def test_a_loss_that_no_weight_can_follow_is_an_error() -> None:
    """Its gradient is known, but an operator in front of it has none."""
    text = "g (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w)  r = Round(h)  y = Relu(r) }"
    student = with_arrays(text, {"w": np.eye(4, dtype="f")})
    data = [{"x": row[None, :4]} for row in rows(40)]
    with pytest.raises(ModelError, match="no weight of the student has a gradient"):
        onnxslim.distill(student, student, data, loss=loss(), **SHORT)


def test_labels_weigh_what_they_are_told_to() -> None:
    x = rows(80)
    data = {"x": x, "__labels__": run(wide(), {"x": x})[0].argmax(1)}
    weights = []
    for labels in (True, 3.0):
        found = onnxslim.distill(noisy(), wide(), data, labels=labels, steps=2, rate=0.001, threads=1)
        told = found.report.distillation
        assert told is not None
        weights.append({term["name"]: term["weight"] for term in told["terms"]})
    assert weights[1]["cross-entropy of l"] == pytest.approx(3 * weights[0]["cross-entropy of l"])
    assert weights[1]["kl of l"] == weights[0]["kl of l"]


def test_the_last_block_follows_it() -> None:
    found = onnxslim.distill(deep(0.15), deep(), feeds(80), loss=loss(), block_wise=True, **SHORT)
    told = found.report.distillation
    assert told is not None and len(told["blocks"]) == 3
    assert told["terms"][0]["after"] < told["terms"][0]["before"]


_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name nearly right": ({"names": ("student.z", "teacher.y")}, "did you mean student.y"),
    "a name": ({"names": ("pupil", "teacher.y")}, "no output of the models"),
    "labels as floats": (
        {"names": ("teacher.y", "labels"), "inputs": "float[n,4] a, float[n] b"},
        "but it is INT64",
    ),
    "a size": ({"inputs": "float[n,5] a, float[n,5] b"}, "another one"),
    "a rank": ({"inputs": "float[n] a, float[n] b"}, "another one"),
    "no student": (
        {"body": "l = ReduceMean<keepdims = 0>(b)", "names": ("teacher.y",), "inputs": "float[n,4] b"},
        "no output of the student",
    ),
    "no single number": ({"body": "d = Sub(a, b)  l = Abs(d)", "result": "float[n,4] l"}, "one element"),
    "two outputs": ({"result": "float l, float[n,4] d"}, "has 2"),
    "no rule": (
        {"body": "e = Sub(a, b)  q = Det(e)  l = ReduceMean<keepdims = 0>(q)"},
        "has no gradient",
    ),
    "flat": (
        {"body": "g = Greater(a, b)  c = Cast<to = 1>(g)  l = ReduceMean<keepdims = 0>(c)"},
        "has no gradient",
    ),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_what_cannot_be_learned_is_refused(name: str) -> None:
    given, why = _REFUSED[name]
    with pytest.raises(OptionError) as caught:
        read_loss(loss(**given), noisy(), wide())
    assert why in str(caught.value).replace("'", "")


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, model in (("student", noisy()), ("teacher", wide()), ("loss", loss())):
        onnx.save(ir.to_proto(model), f"{name}.onnx")
    np.savez("data.npz", x=rows(80))
    command = ["distill", "student.onnx", "--teacher", "teacher.onnx", "--data", "data.npz", "-o", "out.onnx"]
    command += ["--loss", "loss.onnx", "--steps", "20", "--rate", "0.005", "--threads", "1"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["distillation"]["terms"][0]["name"] == "own loss"
    onnx.save(ir.to_proto(loss(names=("student.q", "teacher.y"))), "loss.onnx")
    Path("out.onnx").unlink()
    assert main(command) == 2
    assert "no output of the models" in capsys.readouterr().err and not Path("out.onnx").exists()
    assert main([*command, "--max-memory", "1MB"]) == 2
    assert "whole batches" in capsys.readouterr().err
