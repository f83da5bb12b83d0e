"""Every way to choose what goes, through the command line, in one table.

    python -m benchmarks.criteria [NAME] --zoo ROOT [--macs 0.5] [--sparsity 0.5,2:4]

Channels: each registered criterion down to the same multiply-accumulates, scored with the weights that stay
as they are and refitted, and ``sparsity`` without a target, which removes only what is zero or never used.
Single weights: at random, by magnitude, and by magnitude times that of the activations.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compress import onnxslim
from benchmarks.pruning import feeds_of
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import check_names, model_path, task, use
from onnxslim._ir import ir
from onnxslim.analysis.channels import find_groups
from onnxslim.analysis.cost import stored
from onnxslim.model.io import load
from onnxslim.recipes.pruning.criteria import all_criteria
from onnxslim.recipes.pruning.zeroing import WEIGHT_CRITERIA

HEADER = (
    "granularity",
    "criterion",
    "asked",
    "not zero",
    "channels",
    "bytes",
    "MACs",
    "as they are",
    "refitted",
)


@dataclass(frozen=True)
class Row:
    """One choice; ``values``, ``channels``, ``bytes`` and ``macs`` are shares of the original's.

    Attributes:
        values: weights that are not zero.
        bare: score with the weights that stay as they are.
        refitted: score with them fitted; None where nothing is.
    """

    granularity: str
    criterion: str
    asked: str
    values: float
    channels: float
    bytes: float
    macs: float
    bare: float
    refitted: float | None

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        shares = (f"{share:.3f}" for share in (self.values, self.channels, self.bytes, self.macs))
        refitted = "-" if self.refitted is None else f"{self.refitted:.4f}"
        return self.granularity, self.criterion, self.asked, *shares, f"{self.bare:.4f}", refitted


def ways(macs: str, sparsities: Sequence[str]) -> Iterator[tuple[str, str, str, list[str]]]:
    """Granularity, criterion, what is asked for in words, and the options that ask for it."""
    for criterion in all_criteria():
        yield "channel", criterion, f"{macs}x MACs", ["--target-macs", f"{macs}x"]
    yield "channel", "sparsity", "what is free", []
    for sparsity in sparsities:
        for criterion in WEIGHT_CRITERIA:
            yield "weight", criterion, sparsity, ["--granularity", "weight", "--sparsity", sparsity]


def measured(name: str, granularity: str, criterion: str, asked: str, how: list[str], folder: Path) -> Row:
    """Prune one model in one way.

    Raises:
        RuntimeError: the command fails.
    """
    original, module, scores = model_path(name).resolve(), task(name), []
    result = folder / f"{name}.onnx"
    for more in ([], ["--no-reconstruct"])[granularity == "weight" :]:
        report = onnxslim(
            *("prune", str(original), "-o", str(result), "--force", "--data", feeds_of(name, folder)),
            *("--criterion", criterion, *how, *more),
        )
        scores.append(module.score(str(result)).value)
    before, after = report["before"], report["after"]
    old, new = load(original), load(result)
    return Row(
        granularity,
        criterion,
        asked,
        values(new) / values(old),
        find_groups(new).total / find_groups(old).total,
        result.stat().st_size / original.stat().st_size,
        after["macs"] / before["macs"],
        scores[-1],
        scores[0] if len(scores) > 1 else None,
    )


def values(model: ir.Model) -> int:
    """How many stored floats are not zero, however they are stored."""
    arrays = [np.asarray(tensor.numpy()) for tensor in stored(model)]
    return sum(int(np.count_nonzero(array)) for array in arrays if array.dtype.kind == "f")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="mnist_mobilenetv2", metavar="NAME")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--macs", default="0.5", help="share of the multiply-accumulates to leave")
    parser.add_argument("--sparsity", default="0.5,2:4", help="of single weights")
    parser.add_argument("--only", help="criteria, separated by commas; default all")
    parser.add_argument("--granularity", choices=("channel", "weight"), help="default both")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where criteria.md and .json go")
    given = parser.parse_args(arguments)
    check_names(parser, [given.name])
    use(given.zoo)
    rows: list[Row] = []
    failed: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for way in ways(given.macs, given.sparsity.split(",")):
            if given.granularity not in (None, way[0]) or (
                given.only and way[1] not in given.only.split(",")
            ):
                continue
            try:
                rows.append(measured(given.name, *way, Path(folder)))
            except RuntimeError as error:
                failed.append(f"{way[0]}, {way[1]}, {way[2]}: {error}")
                print(failed[-1], file=sys.stderr)
                continue
            print("  ".join(rows[-1].cells()), file=sys.stderr)
            table = "\n\n".join([markdown(HEADER, [row.cells() for row in rows]), *failed])
            write(given.results, "criteria", table, {"rows": rows, "failed": failed})
    print(table)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
