"""``onnxslim quantize``: integers instead of floats, where they pay."""

from __future__ import annotations

from typing import Any

import click

from onnxslim.cli import options
from onnxslim.cli.rewrite import Rewrite

__all__ = ["command"]


@click.command("quantize")
@click.argument("model")
@options.rewriting
@options.data(what="What to calibrate on")
@click.option(
    "--calibration", metavar="CAL.npz", help="Use what `onnxslim calibrate` wrote, instead of --data."
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "static", "dynamic", "weight-only"]),
    default="auto",
    show_default=True,
    help="static: scales from the data, whole chains in integers; dynamic: products of matrices alone, with "
    "scales found while it runs; weight-only: computes in floats; auto: the best of these for each layer.",
)
@click.option(
    "--integer-io",
    is_flag=True,
    help="Take and give integers instead of floats; the metadata of the model say what they stand for.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Show of each node of the result whether it computes with integers, why not, and its share of time.",
)
@options.weights
@click.option(
    "--activations",
    type=click.Choice(["uint8", "int8", "uint16", "int16", "float8e4m3fn", "binary"]),
    help="Type of activations with static scales, if the target takes it; default what suits the target. "
    "float8e4m3fn makes 8-bit floats of weights too. binary, with --weights binary: signs for the products "
    "that bear it, floats for the others.",
)
@options.budget
@options.overrides
@options.distilling()
@options.common
def command(
    model: str,
    calibration: str | None,
    data: str | None,
    set_options: dict[str, dict[str, str]],
    activations: str | None,
    explain: bool,
    **given: Any,
) -> int:
    """Quantize MODEL for this machine; keep in float what would be slower, and check the accuracy.

    Needs --data or --calibration, or both: the feeds then judge what the calibration was fitted on. The modes
    dynamic and weight-only do without; random inputs judge them then.
    """
    shared, own = options.split_rewrite(given)

    def work(path: str, progress: Any) -> Any:
        from onnxslim.calibration.store import Calibration
        from onnxslim.recipes.api import quantize

        kept = Calibration.load(calibration) if calibration is not None else None
        chosen: Any = activations or ""
        return quantize(
            path, data, calibration=kept, activations=chosen, options=set_options, progress=progress, **own
        )

    read = tuple(name for name in (data, calibration) if name)
    return Rewrite("quantize", model, also_read=read, explain=explain, **shared).run(work)
