"""``onnxslim simplify``: fewer nodes, equal outputs."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import click

from onnxslim.cli import options
from onnxslim.cli.rewrite import Rewrite

__all__ = ["command"]


@click.command("simplify")
@click.argument("model")
@click.argument("out", required=False)
@options.rewriting
@options.shapes
@click.option("--opset", type=click.IntRange(min=1), metavar="N", help="Raise an older operator set to N.")
@options.verification
@options.overrides
@options.common
def command(
    model: str,
    out: str | None,
    output: str | None,
    no_verify: bool,
    set_options: dict[str, dict[str, str]],
    **given: Any,
) -> int:
    """Fold, merge and remove what MODEL computes in vain, keep its outputs equal, and check that they are.

    OUT may also be given as -o OUT; - is stdin or stdout.
    """
    if out is not None and output is not None:
        raise click.UsageError("OUT is given twice")
    shared, own = options.split_rewrite({**given, "output": output or out})

    def work(path: str, progress: Any) -> Any:
        if "numpy" not in sys.modules:  # its BLAS would start a thread per core, and has nothing to do here
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from onnxslim.recipes.api import simplify

        # what the imports have made stays, and a run is short: the collector need not look so often
        gc.freeze()
        gc.set_threshold(20_000, 50, 50)
        progress("simplifying")
        return simplify(path, verify=not no_verify, options=set_options, **own)

    return Rewrite("simplify", model, **shared).run(work)
