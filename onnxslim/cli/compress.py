"""``onnxslim compress``: the best of everything inside an accuracy budget."""

from __future__ import annotations

from typing import Any

import click

from onnxslim.cli import options
from onnxslim.cli.rewrite import Rewrite

__all__ = ["command"]


@click.command("compress")
@click.argument("model")
@options.rewriting
@options.data(required=True, what="What to calibrate and select on")
@click.option(
    "--test", metavar="T", help="Labelled feeds that score the result, once; default: 30% of --data."
)
@options.weights
@click.option(
    "--prune",
    is_flag=True,
    help="Also try it with channels removed, as deep as half of --max-drop allows; what is not pruned gets "
    "half of --time.",
)
@options.distilling("Let what --prune leaves learn from MODEL")
@options.budget
@click.option("--target-latency", metavar="L", help="Required time: 0.7x of the original, or 5ms.")
@click.option("--target-bytes", metavar="B", help="Required size: 0.3x of the original, or 2MB.")
@click.option(
    "--objective",
    type=click.Choice(["both", "latency", "bytes"]),
    default="both",
    show_default=True,
    help="What to minimise among the results that pay; both is time x bytes.",
)
@options.common
def command(model: str, data: str, test: str | None, **given: Any) -> int:
    """Make MODEL smaller and faster, prove it, and say what was tried.

    Where nothing pays inside the budget OUT is the original, unchanged, with the reason. Where a target
    that was asked for cannot be met nothing is written, and the exit code is 4.
    """
    shared, own = options.split_rewrite(given)

    def work(path: str, progress: Any) -> Any:
        from onnxslim.recipes.api import compress

        return compress(path, data, test=test, progress=progress, **own)

    read = tuple(name for name in (data, test) if name)
    return Rewrite("compress", model, also_read=read, **shared).run(work)
