"""``onnxslim calibrate``: the ranges of activations, kept for later."""

from __future__ import annotations

import click

from onnxslim.cli import options
from onnxslim.cli.files import check_target, model_path
from onnxslim.cli.screen import Screen

__all__ = ["command"]


@click.command("calibrate")
@click.argument("model")
@click.option("-o", "--output", metavar="CAL.npz", required=True, help="Where to write the calibration.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@options.data(required=True, what="What to calibrate on")
@options.common
def command(
    model: str,
    output: str,
    force: bool,
    data: str,
    samples: int | None,
    batch: int | None,
    images: str | None,
    seed: int,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> int:
    """Run MODEL on data and keep what its activations look like, for `onnxslim quantize --calibration`."""
    if output == "-":
        raise click.UsageError("a calibration is written to a file, not to stdout")
    check_target(output, (model, data), force=force)
    screen = Screen("calibrate", as_json, verbose, quiet)
    from onnxslim.calibration.runner import calibrate
    from onnxslim.report.text import Table, number

    with model_path(model) as path, screen.progress() as progress:
        calibration = calibrate(
            path, data, samples=samples, batch=batch, images=images, seed=seed, progress=progress
        )
    calibration.save(output)
    facts = calibration.summary()
    rows = tuple((name.replace("_", " "), number(value)) for name, value in facts.items())
    screen.tables([Table("Calibration", ("", ""), rows, "ll")], [], {"output": output, **facts})
    return 0
