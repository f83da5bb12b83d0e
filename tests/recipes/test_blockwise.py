"""``distill --block-wise``: that blocks learn one after the other, repeatably, and never to the worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.cli import main
from onnxslim.distillation.engine import Engine
from onnxslim.errors import ModelError, OptionError
from onnxslim.measure.metrics import agreeing
from tests.distillation.nets import deep, feeds, rows, wide
from tests.models import run

SHORT: dict[str, Any] = {"steps": 24, "rate": 0.005, "threads": 1, "block_wise": True}


def agreement(model: ir.Model, x: np.ndarray[Any, Any]) -> float:
    [one], [other] = run(model, {"x": x}), run(deep(), {"x": x})
    return float(np.mean(agreeing(other, one)))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    onnxslim.save(deep(), tmp_path / "teacher.onnx")
    onnxslim.save(deep(0.15, inner=24), tmp_path / "student.onnx")
    return tmp_path


def test_blocks_learn_one_after_the_other() -> None:
    fresh, student = rows(400, seed=77), deep(0.15)
    found = onnxslim.distill(student, deep(), feeds(300), **{**SHORT, "steps": 120})
    assert agreement(found.model, fresh) > agreement(student, fresh) + 0.1
    told = found.report.distillation
    assert told is not None and told["steps"] == 360 and len(told["losses"]) == 360
    assert [block["value"] for block in told["blocks"]] == ["r2", "r4", None]
    assert all(block["after"] < 0.5 * block["before"] for block in told["blocks"])
    assert [look["step"] for look in told["looks"]] == [0, 120, 240, 360] and told["best"] == 360
    assert {each["name"] for each in told["trained"]} == {
        "w0",
        "b0",
        "w1",
        "b1",
        "w2",
        "w3",
        "w4",
        "w5",
        "b5",
    }


def test_a_block_that_was_trained_stays_while_the_next_one_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each learns from what the student gives, not the teacher."""
    from onnxslim.distillation.engine import Engine

    step, seen = Engine.step, list[tuple[str, ...]]()

    def watched(self: Engine, feed: Any, targets: Any, weights: Any) -> Any:
        loss, gradients = step(self, feed, targets, weights)
        seen.append(tuple(gradients))
        return loss, gradients

    monkeypatch.setattr(Engine, "step", watched)
    onnxslim.distill(deep(0.15), deep(), feeds(60), **{**SHORT, "steps": 3})
    assert list(dict.fromkeys(seen)) == [("w0", "b0", "w1", "b1", "w2"), ("w3", "w4"), ("w5", "b5")]


def test_a_killed_run_goes_on_to_equal_bits(files: Path) -> None:
    both = files / "student.onnx", files / "teacher.onnx"
    for name in ("whole", "again"):
        onnxslim.distill(*both, feeds(60), **SHORT).save(files / f"{name}.onnx")
    expected = (files / "whole.onnx").read_bytes()
    assert (files / "again.onnx").read_bytes() == expected
    for killed_at in (5, 24, 30):  # in the first block, between two, and in the second one
        looks, kept = 0, files / f"kept{killed_at}"

        def interrupt(message: str, last: int = killed_at) -> None:
            nonlocal looks
            looks += "distilling" in message
            if looks == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            onnxslim.distill(*both, feeds(60), checkpoint=kept, progress=interrupt, **SHORT)
        found = onnxslim.distill(*both, feeds(60), checkpoint=kept, resume=True, **SHORT)
        found.save(files / "resumed.onnx", force=True)
        assert (files / "resumed.onnx").read_bytes() == expected
        told = found.report.distillation
        assert told is not None and len(told["losses"]) == 72
    with pytest.raises(OptionError, match="its training by blocks differed"):
        onnxslim.distill(*both, feeds(60), checkpoint=kept, resume=True, **{**SHORT, "block_wise": False})


def test_blocks_that_make_it_worse_are_given_up(files: Path) -> None:
    teacher = files / "teacher.onnx"
    found = onnxslim.distill(teacher, teacher, feeds(40), **{**SHORT, "steps": 20, "rate": 0.9})
    found.save(files / "out.onnx")
    assert (files / "out.onnx").read_bytes() == teacher.read_bytes()


def test_a_student_without_a_cut_is_refused() -> None:
    with pytest.raises(ModelError, match="nowhere does a single value"):
        onnxslim.distill(wide(), wide(), feeds(40), **SHORT)


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(ir.to_proto(deep(0.15)), "student.onnx")
    onnx.save(ir.to_proto(deep()), "teacher.onnx")
    np.savez("data.npz", x=rows(80))
    command = ["distill", "student.onnx", "--teacher", "teacher.onnx", "--data", "data.npz", "-o", "out.onnx"]
    more = ["--block-wise", "--steps", "12", "--rate", "0.005", "--threads", "1"]
    assert main([*command, *more, "--json", "--report", "report.html"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["distillation"]["blocks"]) == 3
    assert main([*command, *more, "--force", "--report", "report.md"]) == 0
    for text in (capsys.readouterr().out, Path("report.html").read_text(), Path("report.md").read_text()):
        assert "3 blocks one after the other" in text and "Blocks" in text


@pytest.mark.parametrize("block_wise", [False, True])
def test_with_little_memory_the_same_is_learned(block_wise: bool) -> None:
    """Parts of a batch give what the batch gives, up to rounding."""
    how = {**SHORT, "steps": 10, "block_wise": block_wise}
    found = [onnxslim.distill(deep(0.15), deep(), feeds(60), max_memory=m, **how) for m in (None, 25_000)]
    assert any("computed at once" in note for note in found[1].report.notes) or block_wise
    losses = [np.array(each.report.distillation["losses"]) for each in found if each.report.distillation]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    x = rows(50)
    [one], [other] = (run(each.model, {"x": x}) for each in found)
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("block_wise", [False, True])
@pytest.mark.parametrize("limit", [25_000, 10])
def test_without_a_limit_there_is_one_that_may_be_passed(
    limit: int, block_wise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are taken apart, but a sample that needs more is tried."""
    monkeypatch.setattr("onnxslim.recipes.learning._MEMORY", limit)
    how = {**SHORT, "steps": 4, "block_wise": block_wise}
    report = onnxslim.distill(deep(0.15), deep(), feeds(60), **how).report
    assert any("computed at once" in note for note in report.notes) != block_wise
    assert report.distillation is not None and len(report.distillation["losses"]) >= 4


def test_inputs_of_several_shapes_are_not_kept_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shape has a session, and each would keep the most that it ever needed."""
    seen: list[bool] = []

    class Seen(Engine):
        def __post_init__(self) -> None:
            seen.append(self.lean)
            super().__post_init__()

    monkeypatch.setattr("onnxslim.recipes.learning.Engine", Seen)
    how = {**SHORT, "steps": 2, "block_wise": False}
    ragged = [{"x": rows(1 + i % 2, seed=i)} for i in range(40)]
    for given in (feeds(40), ragged):
        onnxslim.distill(deep(0.15), deep(), given, **how)
    assert seen == [False, True]
