"""Exit codes and the form of errors: three short lines on stderr, or one JSON object on stdout."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

import click

from onnxslim.cli.app import app
from onnxslim.cli.files import discard_stdout
from onnxslim.errors import OnnxSlimError, OptionError, ResourceError

__all__ = ["State", "run"]

_INTERRUPTED = 130
_LINE = 300


@dataclass
class State:
    """What the error handler must know of the command that failed."""

    json: bool = False
    verb: str | None = None


def run(argv: Sequence[str] | None) -> int:
    """Run the command line and map every outcome to its exit code."""
    if argv is None:  # a real process: let cleanup run when it is told to stop
        signal.signal(signal.SIGTERM, _terminate)
        for stream in (sys.stdout, sys.stderr):  # names that the terminal cannot show are no reason to fail
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        argv = sys.argv[1:]
    state = State(json="--json" in argv)
    try:
        with app.make_context("onnxslim", list(argv), obj=state) as ctx:
            code = app.invoke(ctx)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return OptionError.exit_code
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail(
            state, _INTERRUPTED, "interrupted", _command(state), "start it again; no file is half written"
        )
    except click.UsageError as error:
        return _usage(state, error)
    except BrokenPipeError:  # the reader of our results left, as `head` does
        discard_stdout()
        return 0
    except OnnxSlimError as error:
        hint = error.hint or _help_line(state)
        if error.exit_code == 1:
            return _bug(state, error)
        return _fail(state, error.exit_code, error.what, error.where or _command(state), hint)
    except MemoryError:
        return _fail(
            state, ResourceError.exit_code, "out of memory", _command(state), "free some, or use less data"
        )
    except OSError as error:
        what = error.strerror or type(error).__name__
        where = str(error.filename) if error.filename is not None else _command(state)
        try:
            sys.stdout.flush()
        except OSError:  # it is stdout that is full
            discard_stdout()
        return _fail(state, ResourceError.exit_code, what, where, "check the path, its rights and the disk")
    except Exception as error:  # anything else is a bug, and the user gets the means to report it
        return _bug(state, error)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _command(state: State) -> str:
    return f"onnxslim {state.verb}" if state.verb else "onnxslim"


def _help_line(state: State) -> str:
    return f"{_command(state)} --help lists the options"


def _usage(state: State, error: click.UsageError) -> int:
    hint = _help_line(state)
    what = error.format_message()
    if isinstance(error, click.NoSuchOption):
        what = f"there is no option {error.option_name}"
        if error.possibilities:
            hint = "did you mean " + " or ".join(sorted(error.possibilities)) + "?"
    return _fail(state, OptionError.exit_code, what.rstrip("."), _command(state), hint)


def _bug(state: State, error: BaseException) -> int:
    import tempfile
    import traceback

    from onnxslim.runtime.environment import environment

    with tempfile.NamedTemporaryFile(
        "w", prefix="onnxslim-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(f"{_command(state)}\n{environment()}\n\n")
        file.write("".join(traceback.format_exception(error)))
    what = f"{type(error).__name__}: {error.what if isinstance(error, OnnxSlimError) else error}"
    return _fail(state, 1, f"a bug in onnxslim: {what}", file.name, "report it together with that file")


def _fail(state: State, code: int, what: str, where: str, hint: str) -> int:
    what, where, hint = (_one_line(text) for text in (what, where, hint))
    if state.json:
        from onnxslim.report.to_json import envelope

        error = {"what": what, "where": where, "hint": hint}
        print(envelope(state.verb or "onnxslim", {"error": error}, code))
    else:
        print(f"error: {what}\n  where: {where}\n  try:   {hint}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    """Text that may come from a user's file: printable, and not endless."""
    from onnxslim.report.text import printable

    line = printable(text)
    return line if len(line) <= _LINE else line[: _LINE - 3] + "..."
