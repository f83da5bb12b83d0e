"""``onnxslim bench``: which of two models is faster, with an interval."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from onnxslim.cli import options
from onnxslim.cli.files import model_path
from onnxslim.cli.screen import Screen

if TYPE_CHECKING:
    from onnxslim.measure.latency import Latency
    from onnxslim.report.text import Table

__all__ = ["command"]


@click.command("bench")
@click.argument("a")
@click.argument("b", required=False)
@options.data(what="What to run on (default: random inputs)")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of each session.")
@click.option("--time", default="20s", show_default=True, metavar="T", help="How long to measure.")
@options.providers
@options.common
def command(
    a: str,
    b: str | None,
    data: str | None,
    samples: int | None,
    batch: int | None,
    images: str | None,
    seed: int,
    threads: int,
    time: str,
    providers: tuple[str, ...],
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> int:
    """Time model A; with B, both in turn, and say whether B is faster, slower or equal to A.

    The ratio is the time of B over the time of A; below 1, B is faster.
    """
    screen = Screen("bench", as_json, verbose, quiet)
    from onnxslim.cli.feeds import feeds_of
    from onnxslim.recipes.bench import bench
    from onnxslim.recipes.budget import parse_duration

    seconds = parse_duration(time)
    if a == b == "-":
        raise click.UsageError("only one of the two models can come from stdin")
    second = model_path(b) if b is not None else contextlib.nullcontext()
    with model_path(a) as path_a, second as path_b, screen.progress() as progress:
        progress("measuring")
        measured = bench(
            path_a,
            path_b,
            feeds=feeds_of(path_a, data, samples=samples, batch=batch, images=images, seed=seed),
            threads=threads,
            budget_s=seconds,
            seed=seed,
            providers=providers,
        )
    lines = [f"note: {line}" for line in measured.diagnosis]
    if measured.verdict is not None:
        lines.insert(0, f"B is {measured.verdict}" if measured.verdict != "inconclusive" else "inconclusive")
    screen.tables([_table(measured)], lines, measured.to_dict())
    return 0


def _table(measured: Latency) -> Table:
    from onnxslim.report.text import Table, duration

    rows = [
        (name, duration(timing.p50), duration(timing.best), "")
        for name, timing in (("A", measured.a), ("B", measured.b))
        if timing is not None
    ]
    if measured.b is not None:
        low, high = measured.interval
        rows.append(("B / A", "", "", f"{measured.ratio:.3f} [{low:.3f}, {high:.3f}]"))
    return Table(f"Time per call ({measured.clock} clock)", ("", "median", "best", "ratio"), tuple(rows))
