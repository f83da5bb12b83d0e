"""Where text goes: results to stdout, everything else to stderr, progress only to a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxslim.report.report import Report
    from onnxslim.report.text import Table

__all__ = ["Screen"]

_PATIENCE = 1.0  # seconds before progress is worth showing


@dataclass(frozen=True)
class Screen:
    """How one command talks.

    Args:
        verb: names the schema of the JSON.
        as_json: one JSON object on stdout instead of tables.
        verbose: 0 warnings, 1 what is being done, 2 everything.
        quiet: errors only.
        stdout_taken: stdout carries a model, so that tables go to stderr.
    """

    verb: str
    as_json: bool = False
    verbose: int = 0
    quiet: bool = False
    stdout_taken: bool = False

    def __post_init__(self) -> None:
        level = (
            logging.ERROR
            if self.quiet
            else (logging.WARNING, logging.INFO, logging.DEBUG)[min(self.verbose, 2)]
        )
        log = logging.getLogger("onnxslim")
        log.handlers[:] = [handler := logging.StreamHandler(sys.stderr)]
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log.setLevel(level)
        log.propagate = False

    def report(self, report: Report, exit_code: int = 0) -> None:
        """Show a report."""
        if self.as_json:
            from onnxslim.report.to_json import to_json

            print(to_json(report, self.verb, exit_code))
        elif not self.quiet:
            from onnxslim.report.terminal import to_terminal

            stream = sys.stderr if self.stdout_taken else sys.stdout
            print(to_terminal(report, **self._style(stream)), end="", file=stream)

    def tables(
        self, tables: list[Table], lines: list[str], body: Mapping[str, Any], exit_code: int = 0
    ) -> None:
        """Show any other result: ``tables`` and ``lines`` for people, ``body`` as JSON."""
        if self.as_json:
            from onnxslim.report.to_json import envelope

            print(envelope(self.verb, body, exit_code))
        elif not self.quiet:
            from onnxslim.report.terminal import render_tables

            print(render_tables(tables, lines, **self._style(sys.stdout)), end="")

    def _style(self, stream: Any) -> dict[str, Any]:
        import shutil

        terminal = stream.isatty()
        width = shutil.get_terminal_size((100, 24)).columns if terminal else 100
        return {"width": max(width, 60), "color": terminal}

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[..., None]]:
        """Yields ``update(message)`` or ``update(done, total)``; silent unless stderr is a terminal."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda *state: None
            return
        from rich.console import Console

        console = Console(stderr=True)
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            status = console.status("")
            shown = False

            def update(*state: Any) -> None:
                nonlocal shown
                status.update(
                    " of ".join(str(part) for part in state if part is not None).replace("[", "\\[")
                )
                if not shown and time.monotonic() - begun > _PATIENCE:
                    stack.enter_context(status)
                    shown = True

            yield update
