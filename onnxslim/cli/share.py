"""``onnxslim share``: every weight stored once, equal outputs."""

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
    "--exact", is_flag=True, default=True, help="Share only what is equal bit for bit; this is the default."
)
@options.verification
@options.overrides
@options.common
def command(
    model: str, exact: bool, no_verify: bool, set_options: dict[str, dict[str, str]], **given: Any
) -> int:
    """Store every weight of MODEL once, where it is equal to another or one operator makes it of another.

    The operator costs nothing at run time, for onnxruntime applies it while it loads the model. Nothing else
    is rewritten but what is then computed twice; the outputs stay equal, which is checked.
    """
    shared, own = options.split_rewrite(given)

    def work(path: str, progress: Any) -> Any:
        from onnxslim.recipes.api import share

        progress("sharing")
        return share(path, verify=not no_verify, options=set_options, **own)

    return Rewrite("share", model, **shared).run(work)
