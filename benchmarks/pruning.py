"""Accuracy at given multiply-accumulates: ``onnxslim prune`` on real models, each with its task.

    python -m benchmarks.pruning [NAMES...] --zoo ROOT [--macs 0.9,0.75,0.5] [--criteria reconstruction,l1]

Everything goes through the command line, as for a user.  At most 512 calibration inputs without labels are
ranked on and fitted to, and nothing is chosen by the data that score: the result is scored once, in plain
onnxruntime.  The noise is that of other inputs.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.compress import onnxslim, sqnr_db
from benchmarks.writing import RESULTS, tabulate
from benchmarks.zoo.layout import check_names, model_path, task, use

MODELS = (
    "mnist_resnet14",
    "mnist_mobilenetv2",
    "ppocr_cls",
    "mnist_vit",
    "ppocr_rec",
    "minilm_fp32",
    "opennsfw",
)
SAMPLES = 512
HEADER = ("model", "how", "asked", "MACs", "params", "time", "95 %", "before", "after", "SQNR dB", "s")


@dataclass(frozen=True)
class Row:
    """One pruned model; ``macs``, ``params`` and ``ratio`` (of times) are relative to the original.

    ``how`` says by what its channels were chosen, ``asked`` which share of the products was to be left.
    """

    model: str
    how: str
    asked: float
    macs: float
    params: float
    ratio: float
    interval: tuple[float, float]
    before: float
    after: float
    sqnr_db: float
    seconds: float

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        low, high = self.interval
        shares = f"{self.asked:g}", f"{self.macs:.3f}", f"{self.params:.3f}", f"{self.ratio:.3f}"
        scores = f"{self.before:.4f}", f"{self.after:.4f}", f"{self.sqnr_db:.1f}", f"{self.seconds:.0f}"
        return self.model, self.how, *shares, f"{low:.3f}-{high:.3f}", *scores


def prune(name: str, how: str, asked: float, folder: Path, *options: str) -> Row:
    """Prune one model by the command line and judge the result, ``folder / f"{name}.onnx"``.

    Args:
        options: of ``onnxslim prune``, that say what goes.

    Raises:
        RuntimeError: the command fails.
    """
    original, result, module = model_path(name).resolve(), folder / f"{name}.onnx", task(name)
    begun = time.monotonic()
    report = onnxslim(
        *("prune", str(original), "-o", str(result), "--force"),
        *("--data", feeds_of(name, folder), "--metric", f"{module.__name__}:metric"),
        *options,
    )
    seconds = time.monotonic() - begun
    before, after, latency = report["before"], report["after"], report["latency"]
    return Row(
        name,
        how,
        asked,
        after["macs"] / before["macs"],
        after["params"] / before["params"],
        latency["ratio"],
        (latency["interval"][0], latency["interval"][1]),
        module.score(str(original)).value,
        module.score(str(result)).value,
        sqnr_db(original, result, module.held_out()),
        seconds,
    )


def feeds_of(name: str, folder: Path, samples: int = SAMPLES) -> str:
    """What gives inputs of a task, for ``--data``."""
    file = folder / f"{name}_feeds.py"
    file.write_text(
        f"from {task(name).__name__} import inputs\n\n\ndef feeds():\n    return inputs({samples})\n"
    )
    return f"{file}:feeds"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--macs", default="0.75", help="shares of the multiply-accumulates to reach")
    parser.add_argument("--criteria", default="reconstruction", help="how channels are ranked")
    parser.add_argument("--bare", action="store_true", help="leave the weights that stay as they are")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where pruning.md and .json go")
    given = parser.parse_args(arguments)
    names = given.names or MODELS
    check_names(parser, names)
    use(given.zoo)
    options = ("--no-reconstruct",) if given.bare else ()
    shares = [float(share) for share in given.macs.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for name, criterion, macs in itertools.product(names, given.criteria.split(","), shares):
            how = "--target-macs", f"{macs}x", "--criterion", criterion, *options
            jobs.append((name, partial(prune, name, criterion, macs, Path(folder), *how)))
        return tabulate("pruning", given.results, HEADER, jobs)


if __name__ == "__main__":
    sys.exit(main())
