"""``onnxslim compare``: how far the outputs of two models are apart."""

from __future__ import annotations

from typing import Any, Literal

import click

from onnxslim.cli import options
from onnxslim.cli.files import model_path
from onnxslim.cli.screen import Screen
from onnxslim.errors import VerificationError

__all__ = ["command"]


@click.command("compare")
@click.argument("a")
@click.argument("b")
@options.data(what="What to run on (default: random inputs)")
@click.option(
    "--promise",
    type=click.Choice(["exact", "close"]),
    default="close",
    show_default=True,
    help="exact: bit-equal; close: max|d| <= 1e-4 max|ref| + 1e-6 per output.",
)
@options.common
def command(
    a: str,
    b: str,
    data: str | None,
    promise: Literal["exact", "close"],
    as_json: bool,
    verbose: int,
    quiet: bool,
    **how: Any,
) -> int:
    """Run models A and B on the same inputs and compare their outputs, onnxruntime's optimizations off.

    The exit code is 0 when they agree, 3 when they do not.
    """
    if a == b == "-":
        raise click.UsageError("only one of the two models can come from stdin")
    screen = Screen("compare", as_json, verbose, quiet)
    from onnxslim.cli.feeds import feeds_of
    from onnxslim.recipes.api import compare
    from onnxslim.report.tables import output_table
    from onnxslim.report.verdict import verification_remarks

    with model_path(a) as path_a, model_path(b) as path_b, screen.progress() as progress:
        progress("comparing")
        found = compare(path_a, path_b, feeds_of(path_a, data, **how), promise=promise).to_dict()
    code = 0 if found["ok"] else VerificationError.exit_code
    screen.tables([output_table(found)], list(verification_remarks(found)), found, code)
    return code
