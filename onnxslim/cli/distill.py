"""``onnxslim distill``: the compressed model learns from the original."""

from __future__ import annotations

from typing import Any

import click

from onnxslim.cli import options
from onnxslim.cli.checkpoints import checkpoint_beside, telling
from onnxslim.cli.rewrite import Rewrite

__all__ = ["command"]


@click.command("distill")
@click.argument("student")
@click.option("--teacher", metavar="MODEL", required=True, help="The original, of the same inputs.")
@options.rewriting
@options.data(required=True, what="Inputs to learn on (labels are not needed)")
@click.option("--test", metavar="T", help="Feeds that score the result, once; default: 30% of --data.")
@click.option(
    "--time",
    metavar="T",
    default="5min",
    show_default=True,
    help="Of the training: 30s, 5min; the number of steps follows from it.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="So many steps instead of --time; two runs then write the same bytes.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Samples of a step: fewer take less memory.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="R",
    help="Of learning; default the best of a few, after a short trial of each.",
)
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--no-augment", is_flag=True, help="Learn on the inputs as they are: not shifted, not mixed.")
@click.option(
    "--block-wise",
    is_flag=True,
    help="Train block by block, in the memory of the largest one; --steps are those of each block.",
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    callback=options.parse_size,
    help="Of the tensors of a step at once: batches are computed in parts, whose gradients add up. "
    "Default 2 GB, where inputs have several shapes 1 GB.",
)
@click.option(
    "--labels",
    type=click.FloatRange(0),
    is_flag=False,
    flag_value=1.0,
    default=0.0,
    metavar="[WEIGHT]",
    help="Learn the __labels__ of --data too; weighed against the teacher, 1 unless said otherwise.",
)
@click.option(
    "--loss",
    metavar="FILE.onnx",
    help="What is to fall: a graph of student.OUTPUT and teacher.OUTPUT (and labels) that gives one float.",
)
@click.option(
    "--metric",
    metavar="M",
    help="top1 (needs __labels__), agreement with the teacher (the default), module:function or "
    "path.py:function.",
)
@click.option("--metric-output", metavar="NAME", help="The output that the metric reads; default the first.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: the cores there are.")
@options.providers
@click.option("--resume", is_flag=True, help="Continue a distillation that was interrupted; same bits.")
@options.common
def command(
    student: str,
    teacher: str,
    data: str,
    test: str | None,
    no_augment: bool,
    resume: bool,
    **given: Any,
) -> int:
    """Train STUDENT, a pruned or quantized model, to say what the model that it was made of says.

    It keeps its operators and the types of its weights. What is kept is what agrees best with the teacher on
    inputs that were not trained on, and never less than before. While it runs, what is done so far lies in
    OUT.partial.
    """
    shared, own = options.split_rewrite(given)
    rewrite = Rewrite(
        "distill", student, also_read=tuple(filter(None, (teacher, data, test, given["loss"]))), **shared
    )
    rewrite.check()
    checkpoint = None
    if rewrite.output is not None and rewrite.output != "-" and not rewrite.dry_run:
        checkpoint = checkpoint_beside(rewrite.output, "distillation", force=rewrite.force, resume=resume)
    elif resume:
        raise click.UsageError("--resume needs the -o OUT of the distillation that was interrupted")

    def work(path: str, progress: Any) -> Any:
        from onnxslim.recipes.distill import distill

        return distill(
            path,
            teacher,
            data,
            test=test,
            augment=not no_augment,
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
            **own,
        )

    with telling(checkpoint):
        code = rewrite.run(work)
    if checkpoint is not None:
        from onnxslim.calibration.checkpoint import discard

        discard(checkpoint)
    return code
