"""``onnxslim compress`` on real models, each with its task: is it still right, smaller, and not slower?

    python -m benchmarks.compress [NAMES...] --zoo ROOT

Every model is compressed by the command line, as a user would.  What it says about its result is not
taken for granted: the original and the result are scored again in plain onnxruntime, on inputs that nothing
was fitted to, and timed again by ``onnxslim bench``.  The exit code is 1 where a result is worse.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import TASKS, check_names, model_path, task, use
from benchmarks.zoo.scoring import Feed, open_session
from onnxslim.measure.metrics import MetricResult
from onnxslim.model.io import FileInfo, file_info

REPOSITORY = Path(__file__).parent.parent
HEADER = (
    "model",
    "metric before",
    "after",
    "n",
    "95 %",
    "SQNR dB",
    "bytes",
    "nodes",
    "time",
    "95 %",
    "2 threads",
    "holds",
)
NOT_SLOWER = 1.02  # what the upper end of the time ratio's interval may be


@dataclass(frozen=True)
class Row:
    """What became of one model; ``ratio`` is the time of the result over that of the original.

    ``scenarios`` are what ``onnxslim bench`` found with one and with two threads.
    """

    model: str
    original: FileInfo
    result: FileInfo
    before: MetricResult
    after: MetricResult
    sqnr_db: float
    ratio: float
    interval: tuple[float, float]
    report: Mapping[str, Any] = field(repr=False)
    max_drop: float = 0.01
    scenarios: tuple[Mapping[str, Any], ...] = ()

    @property
    def unchanged(self) -> bool:
        """Whether the original was returned."""
        return self.result.sha256 == self.original.sha256

    @property
    def faults(self) -> tuple[str, ...]:
        """In what the result is worse than was promised."""
        low, high = self.interval
        worse = {
            "larger": self.result.bytes > self.original.bytes,
            "slower": low > NOT_SLOWER,
            "perhaps slower": low <= NOT_SLOWER < high,
            "slower with 2 threads": any(found["verdict"] == "slower" for found in self.scenarios[1:]),
            "lost": self.before.value - self.after.value > self.max_drop + 1e-9,
        }
        return tuple(name for name, true in worse.items() if true)

    def _second(self) -> str:
        """The ratio with two threads, in brackets where nothing can be said."""
        if len(self.scenarios) < 2:
            return "-"
        found = self.scenarios[1]
        (low, high), text = found["interval"], f"{found['ratio']:.3f}"
        return f"{text} {low:.3f}-{high:.3f}" if found["reliable"] else f"({text}) machine busy"

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        low, high = self.after.interval or (math.nan, math.nan)
        verdict = ", ".join(self.faults) or ("unchanged" if self.unchanged else "yes")
        return (
            self.model,
            f"{self.before.value:.4f}",
            f"{self.after.value:.4f}",
            str(self.after.n),
            f"{low:.3f}-{high:.3f}",
            f"{self.sqnr_db:.1f}",
            f"{self.result.bytes / self.original.bytes:.3f}",
            f"{self.original.nodes} -> {self.result.nodes}",
            f"{self.ratio:.3f}",
            f"{self.interval[0]:.3f}-{self.interval[1]:.3f}",
            self._second(),
            verdict,
        )


def onnxslim(*arguments: str) -> dict[str, Any]:
    """Run the command line on ``arguments`` with ``--json``.

    Raises:
        RuntimeError: it fails; the message is its own.
    """
    command = [sys.executable, "-m", "onnxslim", *arguments, "--json"]
    done = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def sqnr_db(original: str | Path, result: str | Path, feeds: Iterable[Feed]) -> float:
    """Signal to noise of the result's worst output over all feeds, in decibels."""
    sessions = open_session(original), open_session(result)
    pairs = [[session.run(None, feed) for session in sessions] for feed in feeds]
    worst = math.inf
    for number in range(len(sessions[0].get_outputs())):
        wanted, found = (
            np.concatenate([np.ravel(pair[side][number]).astype(np.float64) for pair in pairs])
            for side in (0, 1)
        )
        signal, noise = float(np.sum(wanted**2)), float(np.sum((found - wanted) ** 2))
        if noise != 0:
            sound = signal > 0 and math.isfinite(noise)
            worst = min(worst, 10 * math.log10(signal / noise) if sound else -math.inf)
    return worst


def timed(original: str, result: str, data: str, seconds: float) -> dict[str, Any]:
    """``onnxslim bench`` on held-out inputs, once more and longer where the first answer is too wide."""
    for budget in (seconds, 3 * seconds):
        sweep = ("--threads", "1,2", "--budget", f"{budget}s")
        answer = onnxslim("bench", original, result, "--data", data, *sweep)
        if answer["interval"][1] <= NOT_SLOWER or answer["verdict"] == "slower":
            break
    return answer


def search(
    original: str,
    result: str,
    data: str,
    module: ModuleType,
    max_drop: float,
    time: str,
    *options: str,
) -> dict[str, Any]:
    """``onnxslim compress`` by the metric of a task, with more of its options; returns its report."""
    return onnxslim(
        *("compress", original, "-o", result, "--force"),
        *("--data", data, "--metric", f"{module.__name__}:metric"),
        *("--max-drop", str(max_drop), "--time", time, *options),
    )


def compress(name: str, folder: Path, given: argparse.Namespace) -> Row:
    """Compress one model and judge the result."""
    original, result = str(model_path(name).resolve()), str(folder / f"{name}.onnx")
    module = task(name)
    inputs = f"{module.__name__}:inputs"
    asked = ("--weights", given.weights, "--threads", given.threads, "--min-sqnr", str(given.min_sqnr))
    report = search(original, result, inputs, module, given.max_drop, given.time, *asked)
    before, after = file_info(original), file_info(result)
    bench: dict[str, Any] = {"ratio": 1.0, "interval": (1.0, 1.0)}
    if before.sha256 != after.sha256:
        bench = timed(original, result, f"{module.__name__}:held_out", given.bench_time)
    return Row(
        name,
        before,
        after,
        module.score(original),
        module.score(result),
        sqnr_db(original, result, module.held_out()),
        bench["ratio"],
        tuple(bench["interval"]),
        {"compress": report, "bench": bench},
        given.max_drop,
        tuple(bench.get("scenarios", ())),
    )


def means(rows: Sequence[Row]) -> str:
    """Geometric means over the models, what was returned unchanged included."""
    speed = math.exp(-float(np.mean([math.log(row.ratio) for row in rows])))
    size = math.exp(float(np.mean([math.log(row.result.bytes / row.original.bytes) for row in rows])))
    return f"geometric means over {len(rows)}: speed-up {speed:.3f}, bytes {size:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"any of {', '.join(TASKS)}; default all")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--keep", type=Path, help="keep the compressed models in this folder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where compress.md and .json go")
    parser.add_argument("--max-drop", type=float, default=0.01, help="of each metric, absolute")
    parser.add_argument("--min-sqnr", type=float, default=0.0, help="decibels of each output")
    parser.add_argument(
        "--weights", choices=("int8", "int4"), default="int8", help="the fewest bits of a weight"
    )
    parser.add_argument("--threads", default="1", help="with which the search measures, as 1,2")
    parser.add_argument("--time", default="10min", help="of each search")
    parser.add_argument("--bench-time", type=float, default=20, help="seconds of timing for each model")
    given = parser.parse_args(arguments)
    check_names(parser, given.names)
    use(given.zoo)
    rows: list[Row] = []
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in given.names or TASKS:
            begun = time.monotonic()
            try:
                rows.append(compress(name, folder, given))
            except (RuntimeError, FileNotFoundError) as error:
                failed += 1
                print(f"{name}: {error}", file=sys.stderr)
                continue
            table = f"{markdown(HEADER, [row.cells() for row in rows])}\n\n{means(rows)}"
            write(given.results, "compress", table, rows)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if rows:
        print(table)
    return int(failed > 0 or any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
