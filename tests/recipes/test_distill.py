"""``distill``: that students learn, that nothing gets worse, and that runs can be told by their seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.errors import CalibrationError, ModelError, OptionError
from onnxslim.measure.metrics import agreeing
from onnxslim.model import edit
from onnxslim.passes import BinarizeWeights, CodebookWeights, PackWeights, QuantizeVectors
from onnxslim.passes.base import Pass
from tests.distillation.nets import feeds, narrow, noisy, rows, wide, with_arrays
from tests.models import run

SHORT: dict[str, Any] = {"steps": 120, "threads": 1}


def agreement(model: ir.Model, teacher: ir.Model, x: np.ndarray) -> float:
    [one], [other] = run(model, {"x": x}), run(teacher, {"x": x})
    return float(np.mean(agreeing(other, one)))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    onnxslim.save(wide(), tmp_path / "teacher.onnx")
    onnxslim.save(noisy(), tmp_path / "student.onnx")
    return tmp_path


def test_a_student_learns_what_it_never_saw() -> None:
    """A narrower network of random weights comes to agree on inputs of its own."""
    student, teacher = narrow(), wide()
    fresh = rows(400, seed=77)
    before = agreement(student, teacher, fresh)
    found = onnxslim.distill(student, teacher, feeds(600), steps=400, rate=0.02, threads=1)
    assert agreement(found.model, teacher, fresh) > max(before + 0.3, 0.8)
    told = found.report.distillation
    assert told is not None and told["steps"] == 400 and told["looks"][-1]["loss"] < told["looks"][0]["loss"]
    assert [node.op_type for node in found.model.graph] == [node.op_type for node in student.graph]
    assert {each["name"] for each in told["trained"]} == {"w1", "b1", "w2", "b2"} and not told["frozen"]


def test_two_runs_of_one_seed_give_equal_files(files: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        found = onnxslim.distill(
            files / "student.onnx", files / "teacher.onnx", feeds(60), seed=seed, **SHORT
        )
        found.save(files / f"{name}.onnx")
    a, b, c = ((files / f"{name}.onnx").read_bytes() for name in "abc")
    assert a == b and a != c


def test_a_run_that_was_killed_goes_on_to_equal_bits(files: Path) -> None:
    both = files / "student.onnx", files / "teacher.onnx"
    onnxslim.distill(*both, feeds(300), rate=0.004, **SHORT).save(files / "whole.onnx")
    looks = 0

    def interrupt(message: str) -> None:
        nonlocal looks
        looks += message.startswith("distilling")
        if looks == 9:
            raise KeyboardInterrupt

    kept = files / "kept"
    with pytest.raises(KeyboardInterrupt):
        onnxslim.distill(*both, feeds(300), checkpoint=kept, progress=interrupt, rate=0.004, **SHORT)
    found = onnxslim.distill(*both, feeds(300), checkpoint=kept, resume=True, rate=0.004, **SHORT)
    found.save(files / "resumed.onnx")
    assert (files / "resumed.onnx").read_bytes() == (files / "whole.onnx").read_bytes()
    told = found.report.distillation
    assert told is not None and len(told["losses"]) == 120 and told["best"] > 60


def test_a_checkpoint_of_another_run_is_refused(files: Path) -> None:
    both, kept = (files / "student.onnx", files / "teacher.onnx"), files / "kept"
    onnxslim.distill(*both, feeds(40), checkpoint=kept, steps=30, threads=1)
    with pytest.raises(OptionError, match="its seed differed"):
        onnxslim.distill(*both, feeds(40), checkpoint=kept, resume=True, steps=30, threads=1, seed=3)
    with pytest.raises(OptionError, match="its data differed"):
        onnxslim.distill(*both, feeds(40, seed=9), checkpoint=kept, resume=True, steps=30, threads=1)
    kept.write_bytes(b"PK nothing")
    with pytest.raises(OptionError, match="not an interrupted distillation"):
        onnxslim.distill(*both, feeds(40), checkpoint=kept, resume=True, steps=30, threads=1)


def test_a_student_that_cannot_get_better_is_returned_as_it_is(files: Path) -> None:
    """The teacher itself, trained at a rate that destroys it."""
    teacher = files / "teacher.onnx"
    found = onnxslim.distill(teacher, teacher, feeds(40), steps=40, rate=0.9, threads=1)
    found.save(files / "out.onnx")
    assert (files / "out.onnx").read_bytes() == teacher.read_bytes()
    assert any(note.startswith("returned unchanged") for note in found.report.notes)
    told = found.report.distillation
    assert told is not None and told["best"] == 0


def test_what_is_kept_never_agrees_less_on_held_out_samples() -> None:
    for seed in range(3):
        found = onnxslim.distill(noisy(0.6), wide(), feeds(60), seed=seed, steps=60, rate=0.3, threads=1)
        told = found.report.distillation
        assert told is not None
        kept = next(look for look in told["looks"] if look["step"] == told["best"])
        assert kept["agreement"] >= told["looks"][0]["agreement"]
        assert kept["loss"] <= told["looks"][0]["loss"]


def test_a_loss_that_is_not_finite_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxslim.distillation.engine import Engine

    step, calls = Engine.step, 0

    def poisoned(self: Engine, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        loss, gradients = step(self, *arguments)
        if calls == 50:
            return loss, {name: np.full_like(array, np.nan) for name, array in gradients.items()}
        return loss, gradients

    monkeypatch.setattr(Engine, "step", poisoned)
    found = onnxslim.distill(noisy(), wide(), feeds(60), steps=100, rate=0.002, threads=1)
    told = found.report.distillation
    assert told is not None and told["rollbacks"] == 1 and told["rate"] == 0.001 and told["best"] > 50
    for value in found.model.graph.initializers.values():
        content = edit.constant_value(value)
        assert content is not None and np.isfinite(content).all()


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (PackWeights(bits=2, min_sqnr_db=0.0, narrow_sqnr_db=0.0), "codes of 2 bits"),
        (BinarizeWeights(bases=2, min_sqnr_db=0.0), "2 signs"),
        (CodebookWeights(entries=4, per="tensor", min_sqnr_db=0.0), "floats"),
        (CodebookWeights(entries=4, per="block", min_sqnr_db=0.0), "float16"),
        (QuantizeVectors(entries=16, min_sqnr_db=0.0), "float16"),
    ],
    ids=lambda value: value.name if isinstance(value, Pass) else value,
)
def test_codes_of_few_bits_stay_codes_and_learn(step: Pass, kind: str) -> None:
    rng = np.random.default_rng(0)
    text = """g (float[n,8] x) => (float[n,4] y)
        { h = MatMul(x, w1)  r = Relu(h)  m = MatMul(r, w2)  s = Relu(m)  z = MatMul(s, w3)
          y = Softmax(z) }"""
    shapes = {"w1": (8, 64), "w2": (64, 96), "w3": (96, 4)}
    teacher = with_arrays(text, {n: rng.normal(0, s[0] ** -0.5, s).astype("f") for n, s in shapes.items()})
    student = teacher.clone()
    edit.know_names(student)
    assert step(student).modified
    fresh = rows(400, seed=5)
    found = onnxslim.distill(student, teacher, feeds(160), steps=200, rate=0.01, threads=1)
    assert agreement(found.model, teacher, fresh) > agreement(student, teacher, fresh) + 0.02
    one, other = ([n.op_type for n in m.graph if n.op_type != "Cast"] for m in (found.model, student))
    assert one == other  # of very small scales the cast is folded
    stored, before = ({v.dtype for v in m.graph.initializers.values()} for m in (found.model, student))
    assert stored - before <= {ir.DataType.FLOAT}
    told = found.report.distillation
    assert told is not None and kind in {each["kind"] for each in told["trained"]}


def test_labels_are_learned_where_they_are_asked_for() -> None:
    """The teacher knows nothing, the labels do."""
    x = rows(200)
    [answers] = run(wide(), {"x": x})
    data = {"x": x, "__labels__": answers.argmax(1)}
    found = onnxslim.distill(noisy(0.8), noisy(0.4), data, labels=True, steps=150, rate=0.01, threads=1)
    told = found.report.distillation
    assert told is not None and "cross-entropy of l" in {term["name"] for term in told["terms"]}
    with pytest.raises(CalibrationError, match="no labels"):
        onnxslim.distill(noisy(), wide(), feeds(40), labels=True, steps=5)


def test_models_that_take_one_sample_at_a_time_are_trained_so() -> None:
    fixed = [noisy(), wide()]
    for net in fixed:
        net.graph.inputs[0].shape, net.graph.outputs[0].shape = ir.Shape([1, 8]), ir.Shape([1, 4])
    found = onnxslim.distill(*fixed, feeds(30), steps=40, rate=0.003, threads=1)
    assert any("one sample at a time" in note for note in found.report.notes)


def test_what_does_not_belong_together_is_refused() -> None:
    other = with_arrays(
        "g (float[n,9] z) => (float[n,4] y) { y = MatMul(z, w) }", {"w": np.ones((9, 4), "f")}
    )
    with pytest.raises(OptionError, match="different inputs"):
        onnxslim.distill(other, wide(), feeds(40), steps=5)
    same = with_arrays("g (float[n,8] x) => (float[n,4] q) { q = MatMul(x, w) }", {"w": np.ones((8, 4), "f")})
    with pytest.raises(OptionError, match="no output of float32 in common"):
        onnxslim.distill(same, wide(), feeds(40), steps=5)
    empty = with_arrays(
        "g (float[n,8] x) => (float[n,0] y) { y = MatMul(x, w) }", {"w": np.ones((8, 0), "f")}
    )
    with pytest.raises(OptionError, match="no output of float32 in common"):
        onnxslim.distill(empty, empty, feeds(40), steps=5)
    bare = with_arrays("g (float[n,8] x) => (float[n,8] y) { y = Relu(x) }", {})
    with pytest.raises(ModelError, match="nothing in the student can be trained"):
        onnxslim.distill(bare, bare, feeds(40), steps=5)
    for wrong in ({"steps": 0}, {"batch_size": 0}, {"rate": 2.0}, {"time": "never"}, {"resume": True}):
        with pytest.raises(OptionError):
            onnxslim.distill(noisy(), wide(), feeds(40), **{"steps": 5, **wrong})


def test_neither_the_student_nor_the_teacher_changes() -> None:
    student, teacher = noisy(), wide()
    before = [dict(zip("y", run(net, {"x": rows(3)}), strict=True)) for net in (student, teacher)]
    onnxslim.distill(student, teacher, feeds(40), steps=30, threads=1)
    after = [dict(zip("y", run(net, {"x": rows(3)}), strict=True)) for net in (student, teacher)]
    assert all(np.array_equal(one["y"], other["y"]) for one, other in zip(before, after, strict=True))
    assert dataclasses.is_dataclass(onnxslim.Report)


def test_a_student_in_integers_learns_its_ranges_too() -> None:
    """Ranges four times too wide shrink; the biases stay what an integer kernel needs, bit by bit."""
    rng, teacher = np.random.default_rng(0), wide()
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for number, scale in ((1, 0.1), (2, 0.2)):
        weight, bias = (edit.constant_value(teacher.graph.initializers[f"{k}{number}"]) for k in "wb")
        assert weight is not None and bias is not None
        own = (np.abs(weight).max(0) / 127).astype("f")
        arrays |= {
            f"s{number}": np.array(scale, "f"),
            f"z{number}": np.array(128, np.uint8),
            f"ws{number}": own,
        }
        arrays |= {f"wq{number}": np.rint(weight / own).astype(np.int8)}
        arrays |= {f"bq{number}": np.rint(bias / (own * np.float32(scale))).astype(np.int32)}
    text = "g (float[n,8] x) => (float[n,4] y) {" + "".join(
        f"""q{k} = QuantizeLinear({source}, s{k}, z{k})  d{k} = DequantizeLinear(q{k}, s{k}, z{k})
            w{k} = DequantizeLinear<axis = 1>(wq{k}, ws{k})  bs{k} = Mul(ws{k}, s{k})
            b{k} = DequantizeLinear<axis = 0>(bq{k}, bs{k})  {made} = Gemm(d{k}, w{k}, b{k}) {behind}"""
        for k, source, made, behind in ((1, "x", "a", "r = Relu(a)"), (2, "r", "l", "y = Softmax(l)"))
    )
    student = with_arrays(text + "}", arrays)
    found = onnxslim.distill(student, teacher, feeds(200), steps=250, rate=0.003, threads=1)
    told = found.report.distillation
    assert told is not None and not told["frozen"]
    assert {"scales of activations", "codes of 32 bits", "codes of 8 bits"} == {
        t["kind"] for t in told["trained"]
    }
    grown = {n: edit.constant_value(found.model.graph.initializers[n]) for n in ("s1", "s2")}
    assert grown["s1"] < 0.09 and grown["s2"] < 0.15  # from 0.1 and 0.2
    assert [node.op_type for node in found.model.graph] == [node.op_type for node in student.graph]
    x = rng.normal(size=(500, 8)).astype("f")

    def noise(model: ir.Model) -> float:
        [one], [other] = run(model, {"x": x}), run(teacher, {"x": x})
        return float(np.mean((one - other) ** 2))

    assert noise(found.model) < 0.5 * noise(student)
