"""Compressed alone, pruned first, and trained in between: what do they give together?

    python -m benchmarks.composed [NAMES...] --zoo ROOT [--distill 2min]
    python -m benchmarks.composed [NAMES...] --zoo ROOT --macs 0.75x

``onnxslim compress``, the same with ``--prune``, and with ``--prune --distill``, on the same inputs (512 at
most, without labels), by the command line with the task as metric; each result is scored again in plain
onnxruntime, and timed against the original by ``onnxslim bench``.  With ``--macs``
instead: pruned to that share of the products, whether it pays or not, then compressed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compress import onnxslim, search, sqnr_db
from benchmarks.pruning import feeds_of
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import check_names, model_path, task, use

MODELS = ("mnist_resnet14", "mnist_vit", "mnist_mobilenetv2", "ppocr_cls")
HEADER = ("model", "how", "before", "after", "SQNR dB", "bytes", "time", "95 %")


@dataclass(frozen=True)
class Row:
    """One result; ``bytes`` and ``ratio`` (of times) are relative to the original."""

    model: str
    how: str
    before: float
    after: float
    sqnr_db: float
    bytes: float
    ratio: float
    interval: tuple[float, float]

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        low, high = self.interval
        scores = f"{self.before:.4f}", f"{self.after:.4f}", f"{self.sqnr_db:.1f}"
        return (
            self.model,
            self.how,
            *scores,
            f"{self.bytes:.3f}",
            f"{self.ratio:.3f}",
            f"{low:.3f}-{high:.3f}",
        )


def results(name: str, given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """What was done, and the file that came of it.

    Raises:
        RuntimeError: a command fails.
    """
    ways: tuple[tuple[str, ...], ...] = ((), ("--prune",), ("--prune", "--distill", given.distill))
    data = feeds_of(name, folder)
    original = str(model_path(name).resolve())
    if given.macs:
        pruned, result = str(folder / f"{name}_pruned.onnx"), folder / f"{name}_both.onnx"
        onnxslim("prune", original, "-o", pruned, "--force", "--data", data, "--target-macs", given.macs)
        search(pruned, str(result), data, task(name), given.max_drop, given.time)
        yield f"prune to {given.macs}, compress", result
        return
    for number, options in enumerate(ways):
        result = folder / f"{name}_{number}.onnx"
        search(original, str(result), data, task(name), given.max_drop, given.time, *options)
        yield " ".join(("compress", *options)), result


def measured(name: str, how: str, result: Path, seconds: float) -> Row:
    """Judge one result."""
    original, module = model_path(name).resolve(), task(name)
    data = ("--data", f"{module.__name__}:held_out")
    bench = onnxslim("bench", str(original), str(result), *data, "--budget", f"{seconds}s")
    return Row(
        name,
        how,
        module.score(str(original)).value,
        module.score(str(result)).value,
        sqnr_db(original, result, module.held_out()),
        result.stat().st_size / original.stat().st_size,
        bench["ratio"],
        (bench["interval"][0], bench["interval"][1]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--distill", default="2min", help="how long each training takes")
    parser.add_argument("--macs", help="instead: a share of the products to prune to, as 0.75x")
    parser.add_argument("--max-drop", type=float, default=0.01, help="of each metric")
    parser.add_argument("--time", default="10min", help="of each search")
    parser.add_argument("--bench-time", type=float, default=20, help="seconds of timing for each result")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where composed.md and .json go")
    given = parser.parse_args(arguments)
    names = given.names or list(MODELS)
    check_names(parser, names)
    use(given.zoo)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for how, result in results(name, given, Path(folder)):
                rows.append(measured(name, how, result, given.bench_time))
                print("  ".join(rows[-1].cells()), file=sys.stderr)
                write(given.results, "composed", markdown(HEADER, [row.cells() for row in rows]), rows)
    print(markdown(HEADER, [row.cells() for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
