"""``onnxslim run``: the passes of a recipe."""

from __future__ import annotations

from typing import Any

import click

from onnxslim.cli import options
from onnxslim.cli.rewrite import Rewrite

__all__ = ["command"]


@click.command("run")
@click.argument("recipe")
@click.argument("model")
@options.rewriting
@options.data(what="What to calibrate and verify on")
@options.verification
@options.overrides
@options.common
def command(
    recipe: str, model: str, no_verify: bool, set_options: dict[str, dict[str, str]], **given: Any
) -> int:
    """Run the passes of RECIPE, a TOML file, on MODEL.

    \b
    A recipe looks like this:
        [[pass]]
        name = "fold-constants"
        max_bytes = 4096
    """
    shared, own = options.split_rewrite(given)

    def work(path: str, progress: Any) -> Any:
        from onnxslim.recipes.api import run_recipe

        progress("running the recipe")
        return run_recipe(recipe, path, verify=not no_verify, options=set_options, **own)

    return Rewrite("run", model, also_read=(recipe,), **shared).run(work)
