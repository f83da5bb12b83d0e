"""CPU time of processes, on programs whose time is known to the order of magnitude."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.startup import HEADER, cells, cpu_seconds, measure, programs
from tests.models import proto

BURN = "import time\nwhile time.process_time() < 0.4: pass"


def test_the_time_of_children_counts() -> None:
    """A process that only waits is charged with what its child burnt; sleeping costs nothing."""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}], check=True)"
    assert cpu_seconds([sys.executable, "-c", child]) >= 0.4
    assert cpu_seconds(["sleep", "0.5"]) < 0.25


def test_a_failing_program_is_named_with_what_it_said() -> None:
    with pytest.raises(RuntimeError, match="no good"):
        cpu_seconds([sys.executable, "-c", "import sys; sys.exit('no good')"])


def test_every_program_runs_in_every_round(tmp_path: Path) -> None:
    source = tmp_path / "a.onnx"
    source.write_bytes(proto("g (float[2] x) => (float[2] y) { y = Relu(x) }").SerializeToString())
    copier = tmp_path / "copier"
    code = "import shutil, sys; 'help' in sys.argv[1] or shutil.copy(sys.argv[-2], sys.argv[-1])"
    copier.write_text(f"#!{sys.executable}\n{code}\n")
    copier.chmod(0o755)
    ours, *peers = programs()
    ours.simplify = ("{source}", "{target}")
    measure([(program, copier) for program in (ours, *peers)], source, rounds=2)
    for program in (ours, *peers):
        assert len(program.help_s) == len(program.simplify_s) == 2
        assert program.nodes == 1
        assert len(cells(ours, program)) == len(HEADER)
    assert cells(ours, ours)[3] == "1.00"
