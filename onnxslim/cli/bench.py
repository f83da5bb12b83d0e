"""``onnxslim bench``: what changed from one model to another, in numbers that nobody has to doubt."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from onnxslim.cli import options
from onnxslim.cli.files import model_path
from onnxslim.cli.reports import check_report, write_report
from onnxslim.cli.screen import Screen
from onnxslim.errors import BudgetError

if TYPE_CHECKING:
    from onnxslim.report.report import Report

__all__ = ["command"]


@click.command("bench")
@click.argument("a")
@click.argument("b", required=False)
@options.data(what="What to run on (default: random inputs)")
@options.sweep
@click.option("--streams", callback=options.parse_counts, default="", metavar="1,4", help="Callers at once.")
@click.option(
    "--budget", default="20s", show_default=True, metavar="T", help="How long to measure, for each setting."
)
@options.providers
@click.option("--cuda-graph", is_flag=True, help="Replay each call as a CUDA graph (with --providers cuda).")
@click.option("--profile", is_flag=True, help="Show the hottest nodes; --report always does.")
@options.scoring
@click.option(
    "--fail-if",
    multiple=True,
    metavar="GATE",
    help='A gate, exit code 4: "slower>5%", "bytes>+0", "drop>1%", "nodes>+0", "memory>10%", "sqnr<20".',
)
@options.report
@click.option("--force", is_flag=True, help="Overwrite an existing report.")
@options.common
def command(
    a: str,
    b: str | None,
    budget: str,
    report: str | None,
    force: bool,
    profile: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **given: Any,
) -> int:
    """Measure model A; with B, both in turn, and say whether B is faster, slower or equal to A.

    Times are ratios of B to A from interleaved rounds, with a 95 % interval and with A against itself as
    control; below 1, B is faster. Memory, size and outputs are compared as well.
    """
    if a == b == "-":
        raise click.UsageError("only one of the two models can come from stdin")
    inputs = [name for name in (a, b, given["data"]) if name]
    if report is not None:
        check_report(report, inputs, force=force)
    screen = Screen("bench", as_json, verbose, quiet)
    from onnxslim.recipes.bench import bench
    from onnxslim.recipes.budget import parse_duration

    seconds = parse_duration(budget, "--budget")
    second = model_path(b) if b is not None else contextlib.nullcontext()
    with model_path(a) as path_a, second as path_b, screen.progress() as progress:
        measured = bench(
            path_a,
            path_b,
            budget_s=seconds,
            profile=profile or report is not None,
            progress=progress,
            **given,
        )
    found = _named(measured.report, a, b)
    code = BudgetError.exit_code if measured.broken else 0
    if report is not None:
        write_report(report, "bench", found, code)
    screen.report(found, code)
    return code


def _named(report: Report, a: str, b: str | None) -> Report:
    """The report with the names that the user gave, where a model came from stdin."""
    if report.input is not None:
        report = replace(report, input=replace(report.input, path=a))
    if report.output is not None and b is not None:
        report = replace(report, output=replace(report.output, path=b))
    return report
