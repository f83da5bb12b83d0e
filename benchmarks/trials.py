"""Is ``bench`` to be believed?  Pairs whose truth is known, alone and beside a process that loads a core.

    python -m benchmarks.trials [--pairs 5] [--budget 12]

A third of the pairs each are of a model of some ten microseconds, a convolutional network and a transformer.
Half of all pairs are a model and itself; in the other half one has ten per cent more blocks of the same kind
(every second time the first).  How much longer it takes is measured once in a bare loop, the two sessions in
turn, and shown as ``truth``.  A claim between equal models, or of the wrong sign, makes the exit code 1.

    python -m benchmarks.trials --overhead

The median time of a call in the harness over that in a bare loop, for the small model, in turn, in processes
of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks.models import FAMILIES
from benchmarks.writing import RESULTS, markdown, write
from onnxslim.measure.latency import measure_latency

HEADER = ("pairs", "n", "equal", "faster", "slower", "inconclusive", "false claims", "missed")
_MORE = 0.10
_VERDICTS = ("equal", "faster", "slower", "inconclusive")
_BARE = """
import sys, time
import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = 1
sessions = [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in sys.argv[2:]]
x = sessions[0].get_inputs()[0]
feed = {x.name: np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)}


def loop(session, calls, clock=time.perf_counter_ns):
    times = [0] * calls
    session.run(None, feed)
    for i in range(calls):
        start = clock()
        session.run(None, feed)
        times[i] = clock() - start
    return times


calls = [max(3, round(2e7 / np.median(loop(session, 20)))) for session in sessions]
found = [[] for _ in sessions]
end = time.perf_counter() + float(sys.argv[1])
while time.perf_counter() < end:
    for session, count, chunks in zip(sessions, calls, found):
        chunks.append(loop(session, count))
for chunks in found:
    print(np.median(np.concatenate(chunks)), np.median([min(chunk) for chunk in chunks]))
"""


@dataclass(frozen=True)
class Trial:
    """One pair and what was said of it; ``truth`` is the ratio B / A that a bare loop finds."""

    family: str
    kind: str
    loaded: bool
    truth: float
    verdict: str
    ratio: float
    interval: tuple[float, float]
    clock: str
    seconds: float
    diagnosis: tuple[str, ...]

    @property
    def expected(self) -> str:
        return "equal" if self.kind == "same" else "slower" if self.truth > 1 else "faster"

    @property
    def is_false(self) -> bool:
        """A claim that is not so; ``equal`` of models that differ is one too."""
        return self.verdict not in (self.expected, "inconclusive")


def bare(paths: Sequence[Path], seconds: float) -> list[tuple[float, float]]:
    """Per model, the median of all calls and the median of the fastest calls of chunks, in nanoseconds."""
    command = [sys.executable, "-c", _BARE, str(seconds), *map(str, paths)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [(float(line.split()[0]), float(line.split()[1])) for line in lines]


@contextlib.contextmanager
def load(wanted: bool) -> Iterator[None]:
    """A process that keeps a core busy, while the context is open."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def pair(family: str, folder: Path) -> tuple[Path, Path, float]:
    """A model, the same with about ten per cent more work, and how much longer that takes."""
    make, depth = FAMILIES[family]

    def saved(blocks: int) -> Path:
        path = folder / f"{family}-{blocks}.onnx"
        onnx.save(make(blocks), path)
        return path

    original = saved(depth)
    (_, once), (_, twice) = bare([original, saved(2 * depth)], 1.0)
    near = round(_MORE * once / (twice - once) * depth)  # a call has a part that no block adds to
    padded = [saved(depth + more) for more in range(max(1, near - 1), near + 2)]
    best, *others = (fastest for _, fastest in bare([original, *padded], 4.0))
    truths = [other / best for other in others]
    chosen = int(np.argmin(np.abs(np.array(truths) - 1 - _MORE)))
    return original, padded[chosen], truths[chosen]


def run(families: Sequence[str], pairs: int, budget_s: float, folder: Path) -> list[Trial]:
    """All trials; what they find is shown as they go."""
    made = {family: pair(family, folder) for family in families}
    found: list[Trial] = []
    for number in range(pairs):
        for loaded in (False, True):
            for family in families:
                for kind in ("same", "padded"):
                    light, heavy, truth = made[family]
                    a, b = (light, light) if kind == "same" else (light, heavy)
                    if kind == "padded" and number % 2:
                        a, b, truth = heavy, light, 1 / truth
                    with load(loaded):
                        measured = measure_latency(a, b, budget_s=budget_s, seed=len(found))
                    found.append(
                        Trial(
                            family,
                            kind,
                            loaded,
                            1.0 if kind == "same" else truth,
                            str(measured.verdict),
                            measured.ratio,
                            measured.interval,
                            measured.clock,
                            measured.seconds,
                            measured.diagnosis,
                        )
                    )
                    show(found[-1])
    return found


def show(trial: Trial) -> None:
    """A line for one trial, while the others are still to come."""
    low, high = trial.interval
    parts = [
        f"{trial.family:12} {trial.kind:7} {'loaded' if trial.loaded else 'quiet':7} truth {trial.truth:.3f}",
        f"{trial.ratio:.3f} [{low:.3f}, {high:.3f}] {trial.verdict:13} {trial.clock} {trial.seconds:4.0f} s",
        "FALSE" if trial.is_false else "",
        *(trial.diagnosis if trial.verdict == "inconclusive" else ()),
    ]
    print("  ".join(parts).rstrip(), file=sys.stderr, flush=True)


def rows(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    """The table: per kind of pair and state of the machine, what was said how often."""
    table = []
    for kind, words in (("same", "a model and itself"), ("padded", "ten per cent more work")):
        for loaded in (False, True):
            these = [trial for trial in trials if trial.kind == kind and trial.loaded is loaded]
            counts = Counter(trial.verdict for trial in these)
            missed = sum(trial.verdict == "inconclusive" for trial in these)
            table.append(
                (
                    f"{words}, {'a core loaded' if loaded else 'quiet'}",
                    str(len(these)),
                    *(str(counts[verdict]) for verdict in _VERDICTS),
                    str(sum(trial.is_false for trial in these)),
                    str(missed),
                )
            )
    return table


def overhead(folder: Path, repeats: int, budget_s: float) -> list[float]:
    """Median call in the harness / in a bare loop, of the small model."""
    make, depth = FAMILIES["mlp"]
    path = folder / "mlp.onnx"
    onnx.save(make(depth), path)
    found = []
    for number in range(repeats):
        [(median, _)] = bare([path], budget_s / 2)
        harness = 1e9 * measure_latency(path, budget_s=budget_s, seed=number).a.p50
        found.append(harness / median)
        print(f"bare {median / 1e3:.2f} us, harness {harness / 1e3:.2f} us: {found[-1]:.3f}", file=sys.stderr)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", help=f"some of {', '.join(FAMILIES)}; default all")
    parser.add_argument("--pairs", type=int, default=5, help="of each model, kind and state; default 5")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of one measurement; default 20")
    parser.add_argument("--overhead", action="store_true", help="measure the harness itself instead")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where trials.md and .json go")
    given = parser.parse_args(arguments)
    if unknown := set(given.families) - set(FAMILIES):
        parser.error(f"there is no model {sorted(unknown)[0]!r}; there are {', '.join(FAMILIES)}")
    with tempfile.TemporaryDirectory() as name:
        if given.overhead:
            ratios = overhead(Path(name), given.pairs, given.budget)
            cells = [f"{statistic(ratios):.3f}" for statistic in (np.median, min, max)]
            head = ("harness / bare loop", "n", "median", "least", "most")
            table = markdown(head, [("p50 of the small model", str(len(ratios)), *cells)])
            write(given.results, "overhead", table, ratios)
            print(table)
            return int(abs(float(np.median(ratios)) - 1) > 0.05)
        trials = run(given.families or list(FAMILIES), given.pairs, given.budget, Path(name))
    table = markdown(HEADER, rows(trials))
    write(given.results, "trials", table, [asdict(trial) | {"is_false": trial.is_false} for trial in trials])
    print(table)
    return int(any(trial.is_false for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
