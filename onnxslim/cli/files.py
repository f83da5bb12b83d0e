"""What a command reads and writes: ``-`` for stdin and stdout, and nothing overwritten by accident."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from onnxslim.errors import ModelError, OptionError, ResourceError

if TYPE_CHECKING:
    from onnxslim.model.io import FileInfo
    from onnxslim.recipes.pipeline import Result

__all__ = ["check_target", "copy_to_stdout", "discard_stdout", "model_path", "write_result", "write_text"]

_STDIN_LIMIT = 2**31  # a model larger than this keeps its weights in another file, which stdin cannot carry
_CHUNK = 1 << 20


@contextlib.contextmanager
def model_path(argument: str) -> Iterator[str]:
    """The path of a model; with ``-`` stdin is kept in a temporary file while the context is open."""
    if argument != "-":
        yield argument
        return
    import tempfile  # 5 ms that --help need not pay

    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        path = Path(folder) / "stdin.onnx"
        size = 0
        with path.open("wb") as file:
            while chunk := sys.stdin.buffer.read(_CHUNK):
                size += len(chunk)
                if size > _STDIN_LIMIT:
                    raise ResourceError("the model on stdin is larger than 2 GB", where="stdin")
                file.write(chunk)
        if not size:
            raise ModelError("there is nothing on stdin", where="stdin", hint="give the path of a model")
        yield str(path)


def check_target(target: str, inputs: Iterable[str], *, force: bool) -> None:
    """Refuse, before any work is done, to write where something stands or where nothing can be written.

    Raises:
        OptionError: the target is one of the inputs, exists and ``force`` is not set, or has no folder.
    """
    if target == "-":
        return
    path = Path(target)
    for name in inputs:
        if name != "-" and path.exists() and Path(name).exists() and path.samefile(name):
            raise OptionError(
                "the output is the input itself", where=target, hint="write to another file, then move it"
            )
    if path.is_dir():
        raise OptionError("the output is a folder", where=target, hint="give the name of a file")
    if path.exists() and not path.is_file():
        raise OptionError("the output is not a regular file", where=target, hint="- writes to stdout")
    if path.exists() and not force:
        raise OptionError("the output exists already", where=target, hint="--force overwrites it")
    if not path.absolute().parent.is_dir():
        raise OptionError("the folder of the output does not exist", where=target, hint="create it first")


def write_result(result: Result, target: str, *, external_data: bool, force: bool) -> FileInfo:
    """Save the model to a file, or to stdout when ``target`` is ``-``."""
    if target != "-":
        return result.save(target, external_data=external_data or None, force=force)
    import tempfile

    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        path = Path(folder) / "stdout.onnx"
        info = result.save(path, external_data=False)
        copy_to_stdout(path)
    return info


def copy_to_stdout(path: Path) -> None:
    """Write the bytes of a file to stdout.

    Raises:
        ResourceError: the reader left before it had everything.
    """
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        discard_stdout()
        raise ResourceError("the reader of stdout left before it had the whole model") from error


def discard_stdout() -> None:
    """Send what is still buffered for stdout nowhere, so that the interpreter can end in peace."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a small text file at once or not at all."""
    import tempfile

    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
