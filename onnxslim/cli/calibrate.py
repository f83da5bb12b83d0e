"""``onnxslim calibrate``: the ranges of activations, kept for later."""

from __future__ import annotations

import functools

import click

from onnxslim.cli import options
from onnxslim.cli.checkpoints import checkpoint_beside, telling
from onnxslim.cli.files import check_target, model_path
from onnxslim.cli.screen import Screen

__all__ = ["command"]


@click.command("calibrate")
@click.argument("model")
@click.option("-o", "--output", metavar="CAL.npz", required=True, help="Where to write the calibration.")
@click.option("--force", is_flag=True, help="Overwrite an existing file, start anew.")
@options.data(what="What to calibrate on")
@click.option(
    "--merge",
    multiple=True,
    metavar="CAL.npz",
    help="Add an earlier calibration of MODEL; may be repeated, and stand without --data.",
)
@click.option(
    "--second-moments",
    multiple=True,
    metavar="NAME",
    help="Keep X^T X over the channels of this tensor too; may be repeated.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; same bits."
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    callback=options.parse_size,
    help="Activations that one run may hand over; past it, the data is run several times. Same bits.",
)
@options.providers
@click.option("--resume", is_flag=True, help="Continue a calibration that was interrupted; same bits.")
@options.common
def command(
    model: str,
    output: str,
    force: bool,
    data: str | None,
    samples: int | None,
    batch: int | None,
    images: str | None,
    seed: int,
    merge: tuple[str, ...],
    second_moments: tuple[str, ...],
    workers: int,
    max_memory: int | None,
    providers: tuple[str, ...],
    resume: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> int:
    """Run MODEL on data and keep what its activations look like, for `onnxslim quantize --calibration`.

    While it runs, what is done so far lies in CAL.npz.partial. `onnxslim inspect CAL.npz` shows the result.
    """
    if output == "-":
        raise click.UsageError("a calibration is written to a file, not to stdout")
    if data is None and not merge:
        raise click.UsageError("calibrate needs --data, or --merge")
    if data is None and resume:
        raise click.UsageError("--resume needs the --data of the calibration that was interrupted")
    check_target(output, (model, *merge, *((data,) if data else ())), force=force)
    checkpoint = checkpoint_beside(output, "calibration", force=force, resume=resume)
    screen = Screen("calibrate", as_json, verbose, quiet)
    from onnxslim.calibration.checkpoint import discard
    from onnxslim.calibration.runner import calibrate
    from onnxslim.calibration.store import Calibration
    from onnxslim.report.text import Table, number

    parts = [Calibration.load(name) for name in merge]
    with telling(checkpoint):
        with model_path(model) as path, screen.progress() as progress:
            for part in parts:
                part.check(path)
            if data is not None:
                parts.append(
                    calibrate(
                        path,
                        data,
                        second_moments=second_moments,
                        samples=samples,
                        batch=batch,
                        images=images,
                        seed=seed,
                        workers=workers,
                        max_memory=max_memory,
                        providers=providers,
                        checkpoint=checkpoint,
                        resume=resume,
                        progress=progress,
                    )
                )
        calibration = functools.reduce(Calibration.merge, parts)
        calibration.save(output)
        discard(checkpoint)
    facts = calibration.summary()
    rows = tuple((name.replace("_", " "), number(value)) for name, value in facts.items())
    screen.tables([Table("Calibration", ("", ""), rows, "ll")], [], {"output": output, **facts})
    return 0
