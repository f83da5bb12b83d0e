"""``onnxslim prune``: fewer channels, heads or weights, with what was lost made good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxslim.cli import options
from onnxslim.cli.rewrite import Rewrite

__all__ = ["command"]


def _ratios(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Read ``GLOB=0.3``."""
    found = {}
    for text in values:
        glob, _, number = text.rpartition("=")
        try:
            ratio = float(number)
        except ValueError:
            ratio = -1.0
        if not glob or not 0 <= ratio < 1:
            raise click.BadParameter(f"{text!r} is not of the form GLOB=0.3", ctx, parameter)
        found[glob] = ratio
    return found


@click.command("prune")
@click.argument("model")
@options.rewriting
@options.data(what="Inputs to rank channels and to reconstruct on (labels are not needed)")
@click.option("--test", metavar="T", help="Feeds that score the result, once; default: 30% of --data.")
@click.option(
    "--granularity",
    type=click.Choice(["channel", "head", "block", "weight"]),
    default="channel",
    show_default=True,
    help="What is removed: channels, attention heads, residual blocks, or (set to zero) single weights.",
)
@click.option(
    "--criterion",
    metavar="C",
    help="How channels are ranked: random, l1, l2, group-norm, bn-scale, geometric-median, sparsity, "
    "activation, apoz, wanda, obs, reconstruction, merge, merge-pairs (what goes is merged into what stays); "
    "default reconstruction with --data, else l2.",
)
@click.option(
    "--allocation",
    type=click.Choice(["uniform", "global", "sensitivity"]),
    help="How the saving is shared out: the same share of each group; by the scores of the criterion; or by "
    "the measured noise at the outputs (the default with --data).",
)
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="R",
    help="Share of the channels to go: 0.3.",
)
@click.option(
    "--ratio-of",
    "ratios",
    multiple=True,
    callback=_ratios,
    metavar="GLOB=R",
    help="The share that goes of the output channels of weights of this name; may be repeated.",
)
@click.option("--sparsity", metavar="S", help="With --granularity weight: share of zeros (0.5), or 2:4.")
@click.option("--target-macs", metavar="M", help="Multiply-accumulates to reach: 0.7x, or 250M.")
@click.option("--target-params", metavar="P", help="Parameters to reach: 0.7x, or 5M.")
@click.option("--target-bytes", metavar="B", help="Size to reach: 0.7x, or 2MB.")
@click.option("--target-latency", metavar="L", help="Time to reach, measured here: 0.7x, or 5ms.")
@click.option(
    "--round",
    "multiple",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Keep multiples of N channels, at least one.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Remove in N steps; after each, refit and rank anew.",
)
@click.option(
    "--protect", multiple=True, metavar="GLOB", help="Keep the output channels of weights of this name."
)
@click.option("--residual", is_flag=True, help="Also channels that a normalisation averages over.")
@click.option("--mask", metavar="FILE", help="Remove what this mask (JSON, .npz) says.")
@click.option("--save-mask", metavar="FILE", help="Also write what was removed: mask.json, or mask.npz.")
@click.option("--no-reconstruct", is_flag=True, help="Leave the weights that stay as they are.")
@click.option(
    "--max-drop",
    metavar="D",
    help="Remove less where more would be lost of the metric: 0.01 absolute, 1% relative.",
)
@options.scoring
@options.threads
@options.distilling()
@options.common
def command(
    model: str, data: str | None, test: str | None, mask: str | None, save_mask: str | None, **given: Any
) -> int:
    """Remove from MODEL what matters least, and fit what stays to what the original computed.

    Without --data random inputs are used, which tells little. With --criterion sparsity and no target, only
    channels go that are zero or never used.
    """
    shared, own = options.split_rewrite(given)
    dry = shared["dry_run"]
    targets = tuple(path for path in (save_mask,) if path)
    if save_mask is not None and not dry:
        from onnxslim.cli.files import check_target

        check_target(save_mask, (model, *filter(None, (data, test, mask))), force=shared["force"])

    def work(path: str, progress: Any) -> Any:
        from onnxslim.recipes.pruning.api import prune

        reconstruct = not own.pop("no_reconstruct")
        result = prune(path, data, test=test, mask=mask, reconstruct=reconstruct, progress=progress, **own)
        if save_mask is not None and not dry:
            result.mask.save(Path(save_mask))
        return result

    read = tuple(name for name in (data, test, mask) if name)
    return Rewrite("prune", model, also_read=(*read, *targets), **shared).run(work)
