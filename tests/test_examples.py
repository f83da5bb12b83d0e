"""What stands in the README and in examples/ runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxslim
from tests.models import run

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits.onnx"


def feed() -> dict[str, np.ndarray]:
    with np.load(ROOT / "examples" / "test.npz") as test:
        return {name: test[name][:4] for name in test.files if not name.startswith("__")}


def test_three_passes(tmp_path: Path) -> None:
    script = ROOT / "examples" / "three_passes.py"
    target = tmp_path / "out.onnx"
    done = subprocess.run(
        [sys.executable, str(script), str(DIGITS), str(target)], capture_output=True, text=True, check=True
    )
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "fold-constants",
        "eliminate-noops",
        "remove-dead-code",
    ]
    [before], [after] = run(onnx.load(DIGITS), feed()), run(onnx.load(target), feed())
    np.testing.assert_array_equal(before, after)
    assert len(script.read_text().splitlines()) <= 18


def test_recipe() -> None:
    result = onnxslim.run_recipe(ROOT / "examples" / "recipe.toml", DIGITS)
    assert len(result.report.passes) == 5
    [before], [after] = run(onnx.load(DIGITS), feed()), run(result.to_proto(), feed())
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-5)


def test_the_files_are_small() -> None:
    for path in (ROOT / "examples").iterdir():
        assert not path.is_file() or path.stat().st_size < 2_000_000, path.name


def readme_blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )


def test_the_readme_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    passes, measuring = readme_blocks("python")
    done = subprocess.run([sys.executable, "-c", passes], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1.0 []"), done.stdout
    onnx.checker.check_model("digits.simple.onnx")
    shutil.copy("digits.simple.onnx", "digits.slim.onnx")
    measuring = measuring.replace('slim.onnx")', 'slim.onnx", budget_s=0.5)')
    done = subprocess.run([sys.executable, "-c", measuring], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("equal", "inconclusive", "faster", "slower")


def test_the_readme_names_verbs_and_options_that_exist() -> None:
    from onnxslim.cli.app import VERBS, app

    context = app.make_context("onnxslim", ["simplify"], resilient_parsing=True)
    lines = [line.partition("#")[0].split() for block in readme_blocks("sh") for line in block.splitlines()]
    commands = [words[words.index("onnxslim") :] for words in lines if "onnxslim" in words]
    assert {words[1] for words in commands} == set(VERBS)
    for _, verb, *words in commands:
        command = app.get_command(context, verb)
        assert command is not None
        known = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, verb
