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
@click.option(
    "--layers", is_flag=True, help="Also show where noise is born: each value that both models name."
)
@options.common
def command(
    a: str,
    b: str,
    data: str | None,
    promise: Literal["exact", "close"],
    layers: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **how: Any,
) -> int:
    """Run models A and B on the same inputs and compare their outputs, onnxruntime's optimizations off.

    The exit code is 0 when they agree, 3 when they do not.

    --layers shows the signal-to-noise ratio of every value that both models name, in the order of A, with
    what is lost between its inputs and the value, and the noise that is born there: B's node on A's inputs.
    """
    if a == b == "-":
        raise click.UsageError("only one of the two models can come from stdin")
    screen = Screen("compare", as_json, verbose, quiet)
    from onnxslim.cli.feeds import feeds_of
    from onnxslim.recipes.api import compare, compare_layers
    from onnxslim.report.tables import layer_table, output_table
    from onnxslim.report.verdict import verification_remarks

    with model_path(a) as path_a, model_path(b) as path_b, screen.progress() as progress:
        progress("comparing")
        feeds = feeds_of(path_a, data, **how)
        found = compare(path_a, path_b, feeds, promise=promise, seed=how["seed"]).to_dict()
        tables = [output_table(found)]
        if layers:
            progress("comparing layers")
            rows = [layer.to_dict() for layer in compare_layers(path_a, path_b, feeds, seed=how["seed"])]
            found["layers"] = rows
            tables.append(layer_table(rows))
    code = 0 if found["ok"] else VerificationError.exit_code
    screen.tables(tables, list(verification_remarks(found)), found, code)
    return code
