"""``onnxslim share``: every weight stored once; where asked for, similar ones and similar neurons too."""

from __future__ import annotations

from typing import Any

import click

from onnxslim.cli import options
from onnxslim.cli.rewrite import Rewrite

__all__ = ["command"]


@click.command("share")
@click.argument("model")
@options.rewriting
@click.option(
    "--exact", is_flag=True, help="Share only what is equal bit for bit; so it is unless more is asked for."
)
@click.option(
    "--merge-neurons",
    metavar="SHARE",
    help="Remove this share of the channels and let similar ones stand in for them: 0.1; or error=0.05, all "
    "that are reproduced with this relative error.",
)
@click.option(
    "--merge-into",
    type=click.Choice(["many", "one"]),
    default="many",
    show_default=True,
    help="A merged channel becomes a sum of many others, or a multiple of one.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="R",
    help="Store tensors and rows once that are equal up to this relative error, 1e-3, as long as no output "
    "is off by more.",
)
@click.option(
    "--one-to-one", is_flag=True, help="With --tolerance: not those that are equal up to a factor too."
)
@click.option(
    "--codebook",
    type=int,
    metavar="K",
    help="Let the weights of a tensor have K values (2 to 256), times a scale for each 32: 16 or 256.",
)
@click.option(
    "--vectors",
    type=int,
    metavar="D",
    help="With --codebook: K vectors of D values each (2, 4 or 8) and a scale for each row, product "
    "quantization: --codebook 256 --vectors 4 is 2 bits a weight.",
)
@click.option(
    "--functions",
    is_flag=True,
    help="Write parts that compute the same over the same weights from different inputs (twin towers, layers "
    "that share their weights) once, as a function of the model: fewer nodes in the file, equal time.",
)
@options.data(what="Inputs to observe and to judge on (labels are not needed)")
@click.option("--test", metavar="T", help="Feeds that score the result, once; default: 30% of --data.")
@click.option(
    "--max-drop",
    metavar="D",
    help="What may be lost of the metric, which decides how far it goes: 0.01 absolute, 1% relative.",
)
@options.scoring
@options.threads
@options.verification
@options.overrides
@options.common
def command(
    model: str,
    exact: bool,
    no_verify: bool,
    one_to_one: bool,
    set_options: dict[str, dict[str, str]],
    **given: Any,
) -> int:
    """Store every weight of MODEL once, where it is equal to another or one operator makes it of another.

    The operator costs nothing at run time, for onnxruntime applies it while it loads the model. Nothing else
    is rewritten but what is then computed twice; the outputs stay equal, which is checked.

    With --merge-neurons, --tolerance and --codebook what is only similar is shared too; outputs then change,
    and --max-drop says how much. Without --data random inputs judge, which tells little.
    """
    shared, own = options.split_rewrite(given)
    near = ("merge_neurons", "tolerance", "codebook")
    if exact and any(own[name] is not None for name in near):
        raise click.UsageError("--exact shares nothing that is only similar: leave one of the options out")

    def work(path: str, progress: Any) -> Any:
        from onnxslim.recipes.sharing.api import share

        progress("sharing")
        return share(
            path,
            verify=not no_verify,
            options=set_options,
            scaled=not one_to_one,
            progress=progress,
            **own,
        )

    read = tuple(name for name in (own["data"], own["test"]) if name)
    return Rewrite("share", model, also_read=read, **shared).run(work)
