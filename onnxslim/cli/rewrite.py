"""What every verb that writes a model has in common: check the targets, run, write, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from onnxslim.cli.files import check_target, model_path, write_result
from onnxslim.cli.reports import check_report, write_report
from onnxslim.cli.screen import Screen

if TYPE_CHECKING:
    from onnxslim.recipes.pipeline import Result
    from onnxslim.report.report import Report

__all__ = ["Rewrite"]


@dataclass(frozen=True)
class Rewrite:
    """One run of a verb that reads MODEL and writes OUT; the fields are the options of these names.

    ``explain``: say of each node of OUT why it computes in float.
    """

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
    explain: bool = False

    def run(self, work: Callable[[str, Callable[..., None]], Result]) -> int:
        """Call ``work(path, progress)``, write what it returns, show the report; returns the exit code."""
        self.check()
        screen = Screen(self.verb, self.as_json, self.verbose, self.quiet, self.output == "-")
        with model_path(self.model) as path, screen.progress() as progress:
            result = work(path, progress)
            report = self._name_stdin(result.report)
            if not self.dry_run:
                report = self._write(result, report, path, progress)
        if self.dry_run:
            report = replace(report, notes=(*report.notes, "dry run: nothing was written"))
        elif self.report is not None:
            write_report(self.report, self.verb, report)
        screen.report(report)
        return 0

    def _write(self, result: Result, report: Report, path: str, progress: Callable[..., None]) -> Report:
        assert self.output is not None
        info = write_result(result, self.output, external_data=self.external_data, force=self.force)
        wanted = self.explain or (self.report is not None and result.unchanged is None)
        if wanted and self.output != "-":
            from onnxslim.recipes.evidence import with_profile, with_reasons

            progress("profiling nodes")
            report = with_profile(report, path, self.output)
            if self.explain:
                report = with_reasons(report, result.model)
        return replace(report, output=replace(info, path=self.output))

    def check(self) -> None:
        """Refuse, before any work is done, what cannot be written."""
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
            check_report(self.report, (*inputs, self.output), force=self.force)

    def _name_stdin(self, report: Report) -> Report:
        if self.model != "-" or report.input is None:
            return report
        return replace(report, input=replace(report.input, path="-"))
