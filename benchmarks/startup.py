"""CPU time of whole processes: ``--help``, and the simplification of a small model, beside the peers.

    python -m benchmarks.startup --zoo ROOT

Each program runs in a virtual environment of its own, since one of the peers installs under our import name;
they are made under benchmarks/results/ on the first run.  Times are user + system CPU of the process and its
children, the programs in turn in every round, medians over rounds; the first round warms up and is dropped.
Ratios are ours over the peer's, per round, with the interval of their median.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from benchmarks.environments import ONNXSIM, ONNXSLIM, environment
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import model_path, use
from onnxslim.measure.stats import bootstrap_interval

REPOSITORY = Path(__file__).parent.parent
HEADER = ("program", "--help s", "simplify s", "ours / its", "95 %", "nodes")


@dataclass
class Program:
    """A simplifier; the times are CPU seconds, one per round."""

    name: str
    requirement: str
    executable: str
    simplify: tuple[str, ...]
    help_s: list[float] = field(default_factory=list)
    simplify_s: list[float] = field(default_factory=list)
    nodes: int = 0


def programs() -> list[Program]:
    """Ours first, then the peers, in the versions that the published figures are of."""
    return [
        Program("this project", str(REPOSITORY), "onnxslim", ("simplify", "{source}", "-o", "{target}")),
        Program("onnxsim", ONNXSIM, "onnxsim", ("{source}", "{target}")),
        Program("OnnxSlim", ONNXSLIM, "onnxslim", ("{source}", "{target}")),
    ]


def cpu_seconds(command: Sequence[str]) -> float:
    """User and system time of a process and of the children that it waited for.

    Raises:
        RuntimeError: it fails.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {said.read().decode(errors='replace')}")
    return usage.ru_utime + usage.ru_stime


def measure(chosen: Sequence[tuple[Program, Path]], source: Path, rounds: int) -> None:
    """Run every program once per round, ``--help`` and then simplify, and fill in its times."""
    for number in range(rounds + 1):
        for program, executable in chosen:
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "simplified.onnx"
                asked = [part.format(source=source, target=target) for part in program.simplify]
                times = cpu_seconds([str(executable), "--help"]), cpu_seconds([str(executable), *asked])
                if number:
                    program.help_s.append(times[0])
                    program.simplify_s.append(times[1])
                program.nodes = len(onnx.load(target, load_external_data=False).graph.node)


def cells(ours: Program, program: Program) -> tuple[str, ...]:
    """The row of the table."""
    ratios = np.divide(ours.simplify_s, program.simplify_s)
    low, high = bootstrap_interval(ratios, lambda sample: float(np.median(sample)))
    return (
        program.name if program is ours else program.requirement,
        f"{np.median(program.help_s):.3f}",
        f"{np.median(program.simplify_s):.3f}",
        f"{np.median(ratios):.2f}",
        f"{low:.2f}-{high:.2f}",
        str(program.nodes),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--model", default="ppocr_rec", help="which of its models; default ppocr_rec")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--environments", type=Path, default=RESULTS / "environments")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where startup.md and .json go")
    for program in programs():
        option = program.name.replace(" ", "-").lower()
        parser.add_argument(f"--{option}", type=Path, metavar="PATH", help=f"an installed {program.name}")
    given = parser.parse_args(arguments)
    use(given.zoo)
    chosen = []
    for program in programs():
        installed = getattr(given, program.name.replace(" ", "_").lower())
        if installed is None:
            name = program.name.replace(" ", "-")
            folder = environment(name, [program.requirement], given.environments.resolve())
            installed = folder / program.executable
        chosen.append((program, installed))
    measure(chosen, model_path(given.model).resolve(), given.rounds)
    ours = chosen[0][0]
    table = markdown(HEADER, [cells(ours, program) for program, _ in chosen])
    write(given.results, "startup", table, [program for program, _ in chosen])
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
