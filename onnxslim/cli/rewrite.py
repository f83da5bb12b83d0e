"""What every verb that writes a model has in common: check the targets, run, write, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxslim.cli.files import check_target, model_path, write_result, write_text
from onnxslim.cli.screen import Screen
from onnxslim.errors import OptionError

if TYPE_CHECKING:
    from onnxslim.recipes.pipeline import Result
    from onnxslim.report.report import Report

__all__ = ["Rewrite"]


@dataclass(frozen=True)
class Rewrite:
    """One run of a verb that reads MODEL and writes OUT; the fields are the options of these names."""

    verb: str
    model: str
    output: str | None
    force: bool
    dry_run: bool
    external_data: bool
    report: str | None
    as_json: bool
    verbose: int
    quiet: bool
    also_read: tuple[str, ...] = ()

    def run(self, work: Callable[[str, Callable[..., None]], Result]) -> int:
        """Call ``work(path, progress)``, write what it returns, show the report; returns the exit code."""
        self._check()
        screen = Screen(self.verb, self.as_json, self.verbose, self.quiet, self.output == "-")
        with model_path(self.model) as path:
            with screen.progress() as progress:
                result = work(path, progress)
            report = self._name_stdin(result.report)
            if not self.dry_run:
                assert self.output is not None
                info = write_result(result, self.output, external_data=self.external_data, force=self.force)
                report = replace(report, output=replace(info, path=self.output))
        if self.dry_run:
            report = replace(report, notes=(*report.notes, "dry run: nothing was written"))
        elif self.report is not None:
            self._write_report(report)
        screen.report(report)
        return 0

    def _check(self) -> None:
        if self.output is None and not self.dry_run:
            raise click.UsageError("say where to write the model: -o OUT (or --dry-run)")
        if self.output == "-" and self.as_json:
            raise click.UsageError("-o - and --json both want stdout")
        if self.output == "-" and self.external_data:
            raise click.UsageError("-o - cannot carry --external-data")
        inputs = (self.model, *self.also_read)
        if self.output is not None and not self.dry_run:
            check_target(self.output, inputs, force=self.force)
        if self.report is not None:
            if Path(self.report).suffix not in _WRITERS:
                raise OptionError(
                    f"reports end in {' or '.join(_WRITERS)}", where=self.report, hint="--report FILE.md"
                )
            if self.output is not None and Path(self.report).resolve() == Path(self.output).resolve():
                raise OptionError("the report and the model are the same file", where=self.report)
            check_target(self.report, inputs, force=self.force)

    def _name_stdin(self, report: Report) -> Report:
        if self.model != "-" or report.input is None:
            return report
        return replace(report, input=replace(report.input, path="-"))

    def _write_report(self, report: Report) -> None:
        assert self.report is not None
        path = Path(self.report)
        write_text(path, _WRITERS[path.suffix](self.verb, report))


def _markdown(verb: str, report: Report) -> str:
    from onnxslim.report.markdown import to_markdown

    return to_markdown(report, f"onnxslim {verb}")


def _json(verb: str, report: Report) -> str:
    from onnxslim.report.to_json import to_json

    return to_json(report, verb) + "\n"


_WRITERS: dict[str, Callable[[str, Any], str]] = {".md": _markdown, ".json": _json}
