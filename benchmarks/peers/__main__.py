"""Other tools side by side with this one, on real models, each with its task.

    python -m benchmarks.peers [NAMES...] --zoo ROOT

Every method gets the same 16 inputs to calibrate on and runs in a virtual environment of its own, with
pinned versions; the environments are made on the first run.  Every candidate is judged alike: the task's
score, the signal-to-noise ratio of its worst output on other inputs, bytes, and time in turn with the
original.  A method that fails is a row with its reason.  A row that is in the results already is measured
again only where the model, the method's versions or the number of threads have changed.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import summary
from benchmarks.peers.judging import Judge, Subject, begun, measure
from benchmarks.peers.methods import METHODS, Builder, BuildError
from benchmarks.peers.rows import MAX_DROP, Row, load, table
from benchmarks.writing import RESULTS, write
from benchmarks.zoo.layout import TASKS, check_names, use
from onnxslim.runtime.environment import environment


class Results:
    """The rows, written whenever one is added; one for each model and method."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = {(row.model, row.method): row for row in load(folder / "peers.json")}

    def has(self, row: Row) -> bool:
        """Whether the same was measured before."""
        stored = self.rows.get((row.model, row.method))
        return stored is not None and stored.measured_like(row)

    def add(self, row: Row) -> None:
        """Put a row in the place of an older one."""
        self.rows[row.model, row.method] = row
        write(self.folder, "peers", str(self), {"rows": self.ordered(), "environment": environment()})

    def ordered(self) -> list[Row]:
        """By model, then as the methods are listed."""
        order = {method: number for number, method in enumerate(METHODS)}
        return sorted(self.rows.values(), key=lambda row: (row.model, order.get(row.method, len(order))))

    def __str__(self) -> str:
        rows = self.ordered()
        return "\n\n".join((table(rows), summary.models(rows), summary.means(rows)))


def run(subject: Subject, methods: Sequence[str], results: Results, given: argparse.Namespace) -> None:
    """Measure the methods on one model, but those that are in the results."""
    judge = Judge(given.threads, given.budget)
    builder = Builder(given.environments.resolve(), MAX_DROP, given.time, given.limit)
    with tempfile.TemporaryDirectory() as temporary:
        prepared: tuple[Path, Path] | None = None
        for method in methods:
            started = time.monotonic()
            try:
                row = begun(subject, method, builder.versions(method), judge)
            except BuildError as error:
                print(f"{subject.name} {method}: {error}", file=sys.stderr)
                results.add(Row(subject.name, method, subject.info.sha256, (), judge.threads, str(error)))
                continue
            if results.has(row) and not given.force:
                continue
            folder = (given.keep or Path(temporary)).resolve() / subject.name / method
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.iterdir():
                old.unlink()
            prepared = prepared or subject.prepare(Path(temporary))
            build = functools.partial(builder.build, method, subject.name, *prepared)
            row = measure(subject, row, build, judge, folder)
            results.add(row)
            said = row.failure or f"time {row.time:.3f}, bytes {row.bytes:.3f}, score {row.after:.4f}"
            print(f"{subject.name} {method}: {said} ({time.monotonic() - started:.0f} s)", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"any of {', '.join(TASKS)}; default all")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=METHODS,
        metavar="METHOD",
        help=f"some of {', '.join(METHODS)}",
    )
    parser.add_argument("--budget", type=float, default=20, help="seconds of timing for each candidate")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime while it is timed")
    parser.add_argument("--time", default="10min", help="of each of our searches")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which a peer is stopped")
    parser.add_argument("--force", action="store_true", help="measure again what is in the results")
    parser.add_argument("--keep", type=Path, help="keep the candidates in this folder")
    parser.add_argument("--environments", type=Path, default=RESULTS / "environments")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where peers.md and .json go")
    given = parser.parse_args(arguments)
    check_names(parser, given.names)
    use(given.zoo)
    try:
        results = Results(given.results)
    except ValueError as error:
        parser.error(str(error))
    failed = 0
    for name in given.names or TASKS:
        try:
            run(Subject(name), given.methods, results, given)
        except (FileNotFoundError, ImportError) as error:  # of the zoo or the task, not of a method
            failed += 1
            print(f"{name}: {error}", file=sys.stderr)
    if results.rows:
        print(results)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
