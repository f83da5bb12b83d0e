"""What a command reads and writes, without any model."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxslim.cli import files
from onnxslim.cli.files import check_target, model_path, write_text
from onnxslim.errors import ModelError, OptionError, ResourceError


class Stdin:
    """Stands in for sys.stdin with these bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_stdin_is_kept_while_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"model"))
    with model_path("-") as path:
        assert Path(path).read_bytes() == b"model"
    assert not Path(path).exists()


def test_an_empty_or_endless_stdin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    with pytest.raises(ModelError, match="nothing on stdin"), model_path("-"):
        pass
    monkeypatch.setattr(files, "_STDIN_LIMIT", 10)
    monkeypatch.setattr(sys, "stdin", Stdin(b"x" * 11))
    with pytest.raises(ResourceError, match="2 GB"), model_path("-"):
        pass


def test_a_path_is_taken_as_it_is() -> None:
    with model_path("no/such/model.onnx") as path:
        assert path == "no/such/model.onnx"


def test_existing_files_need_force(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    check_target(str(target), ["in.onnx"], force=False)
    target.touch()
    with pytest.raises(OptionError, match="exists already"):
        check_target(str(target), ["in.onnx"], force=False)
    check_target(str(target), ["in.onnx"], force=True)


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "detour"])
def test_the_input_is_never_the_output(tmp_path: Path, link: str) -> None:
    source = tmp_path / "in.onnx"
    source.touch()
    other = tmp_path / "other.onnx"
    if link == "symlink":
        other.symlink_to(source)
    elif link == "hardlink":
        other.hardlink_to(source)
    target = {"same": source, "detour": tmp_path / ".." / tmp_path.name / "in.onnx"}.get(link, other)
    with pytest.raises(OptionError, match="the input itself"):
        check_target(str(target), ["-", str(source)], force=True)


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="folder of the output"):
        check_target(str(tmp_path / "none" / "out.onnx"), [], force=False)
    with pytest.raises(OptionError, match="is a folder"):
        check_target(str(tmp_path), [], force=True)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OptionError, match="regular file"):
        check_target(str(fifo), [], force=True)
    check_target("-", [], force=False)


def test_text_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "report.md"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "new\udc80")
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]
    usual = tmp_path / "usual"
    usual.touch()
    assert target.stat().st_mode == usual.stat().st_mode


def test_a_model_that_nobody_takes_is_an_error(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(bytes(10_000_000))
    code = (
        "import sys, pathlib\n"
        "from onnxslim.cli.files import copy_to_stdout\n"
        f"copy_to_stdout(pathlib.Path({str(model)!r}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        assert b"ResourceError" in child.stderr.read()
    assert child.returncode == 1
