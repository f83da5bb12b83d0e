"""Exit codes and the form of errors, whatever the verb."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from onnxslim import errors
from onnxslim.cli import main
from onnxslim.cli.options import common


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Puts a command that raises in the place of ``doctor``."""

    def install(error: BaseException) -> None:
        @click.command("doctor")
        @common
        def command(**options: object) -> int:
            raise error

        import onnxslim.cli.doctor

        monkeypatch.setattr(onnxslim.cli.doctor, "command", command)

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelError("m"), 2),
        (errors.OptionError("m"), 2),
        (errors.ResourceError("m"), 2),
        (errors.CalibrationError("m"), 2),
        (errors.VerificationError("m"), 3),
        (errors.BudgetError("m"), 4),
        (errors.DependencyError("m"), 5),
        (errors.PassError("m"), 1),
        (KeyError("m"), 1),
        (RecursionError("m"), 1),
        (MemoryError(), 2),
        (OSError(28, "No space left on device", "/a/b"), 2),
        (click.UsageError("m"), 2),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_every_error_has_its_exit_code_and_three_lines(
    failing: Callable[[BaseException], None],
    error: BaseException,
    code: int,
    as_json: bool,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing(error)
    assert main(["doctor", "--json"] if as_json else ["doctor"]) == code
    out, err = capsys.readouterr()
    if as_json:
        document = json.loads(out)
        assert document["schema"] == "onnxslim.doctor/1" and document["exit_code"] == code
        assert all(document["error"][key] for key in ("what", "where", "hint")) and not err
    else:
        assert re.fullmatch(r"error: .+\n  where: .+\n  try:   .+\n", err) and not out
    kept = list(tmp_path.glob("onnxslim-bug-*"))
    assert len(kept) == (code == 1)
    if kept:
        assert str(kept[0]) in (out or err)
        text = kept[0].read_text()
        assert "Traceback" in text and "onnxruntime" in text


def test_text_of_a_hostile_file_stays_on_its_line(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(errors.ModelError("bad\nname \x1b[31mred" + "x" * 10_000, where="a\rb\u202ec"))
    assert main(["doctor"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 3 and "\x1b" not in err and "\u202e" not in err
    assert max(map(len, err.splitlines())) < 400


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["simplfy", "a.onnx"], "did you mean 'simplify'"),
        (["inspct"], "did you mean 'inspect'"),
        (["xyzzy"], "the commands are: simplify"),
        (["simplify", "a.onnx", "--forse"], "did you mean --force"),
        (["simplify"], "Missing argument 'MODEL'"),
        (["simplify", "a.onnx"], "-o OUT"),
        (["simplify", "a.onnx", "b.onnx", "-o", "c.onnx"], "OUT is given twice"),
        (["simplify", "a.onnx", "-o", "-", "--external-data"], "external-data"),
        (["simplify", "a.onnx", "-o", "b.onnx", "--dim", "batch"], "batch=1"),
        (["simplify", "a.onnx", "-o", "b.onnx", "--dim", "batch=0"], "batch=1"),
        (["simplify", "a.onnx", "-o", "b.onnx", "--input-shape", "x:1,-2"], "name:1,3,224,224"),
        (["simplify", "a.onnx", "-o", "b.onnx", "--set", "fold.x"], "pass.option=value"),
        (["simplify", "a.onnx", "-o", "b.onnx", "--verify-limit", "2x"], "500MB"),
        (["simplify", "a.onnx", "-o", "b.onnx", "--report", "r.pdf"], ".html, .md or .json"),
        (["quantize", "a.onnx", "-o", "b.onnx"], "--data or --calibration"),
        (["compress", "a.onnx", "-o", "b.onnx"], "--data"),
        (["compress", "a.onnx", "-o", "b.onnx", "--data", "d", "--objective", "speed"], "latency"),
        (["calibrate", "a.onnx", "--data", "d", "-o", "-"], "not to stdout"),
        (["--unknown"], "no option --unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_usage_is_exit_code_2_with_a_hint(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 3 and expected in err


def test_a_model_on_stdout_leaves_no_room_for_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simplify", "a.onnx", "-o", "-", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "onnxslim.simplify/1"
    assert "stdout" in document["error"]["what"]


def test_without_arguments_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_version_and_help_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    from onnxslim import __version__
    from onnxslim.cli.app import VERBS

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"onnxslim-passes {__version__}\n"
    assert main(["-h"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    from onnxslim.cli.app import VERBS

    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        out = capsys.readouterr().out
        for option in ("--json", "--verbose", "--quiet", "--help"):
            assert option in out, verb


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim", "doctor"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
