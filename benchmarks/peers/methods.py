"""The methods that are compared, and how a candidate is made by each, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from benchmarks.compress import REPOSITORY, search
from benchmarks.environments import ONNXSIM, ONNXSLIM, environment, installed
from benchmarks.zoo.layout import model_path, task

OURS = "ours"
_BUILDERS = Path(__file__).with_name("builders.py")
_ONNXRUNTIME = ("onnxruntime==1.32.0", "onnx==1.23.2")
_QUANTIZATION = ("ort-quantization", (*_ONNXRUNTIME, "onnx-ir==1.1.0", "sympy==1.14.0"))
# the environment, and what is installed there, of each function in builders.py
PEERS: dict[str, tuple[str, Sequence[str]]] = {
    "ort-static": _QUANTIZATION,
    "ort-static-gemms": _QUANTIZATION,
    "ort-static-percentile": _QUANTIZATION,
    "ort-dynamic": _QUANTIZATION,
    "ort-dynamic-matmul": _QUANTIZATION,
    "ort-4bit": _QUANTIZATION,
    "ort-graph": _QUANTIZATION,
    "onnxsim": ("onnxsim-with-onnxruntime", (ONNXSIM, *_ONNXRUNTIME)),
    "OnnxSlim": ("OnnxSlim-with-onnxruntime", (ONNXSLIM, *_ONNXRUNTIME)),
    "nncf": ("nncf", ("nncf==3.4.0", *_ONNXRUNTIME)),
}
METHODS = (OURS, *PEERS)


class BuildError(Exception):
    """A method made no model; the message says why."""


@dataclass(frozen=True)
class Builder:
    """Makes candidates.

    Args:
        environments: the folder of the peers' environments.
        max_drop: what our search may lose of the metric, absolute.
        search_time: of our search, as on its command line.
        limit_s: seconds after which a peer is stopped.
    """

    environments: Path
    max_drop: float = 0.01
    search_time: str = "10min"
    limit_s: float = 3600

    def versions(self, method: str) -> tuple[str, ...]:
        """What decides a method's result: all that is installed for it; of ours, a digest of the source.

        Raises:
            BuildError: its environment cannot be made.
        """
        if method == OURS:
            return (f"source {_own_digest()}", f"max drop {self.max_drop}", f"time {self.search_time}")
        return (f"builders {_digest([_BUILDERS])}", *installed(self._executables(method)))

    def build(self, method: str, model: str, source: Path, feeds: Path, target: Path) -> None:
        """Write a method's candidate to ``target``.

        Args:
            model: its name in the zoo.
            source: a copy of it, beside which nothing else lies: some peers leave files there.
            feeds: a folder of .npz files to calibrate on.

        Raises:
            BuildError: it made none.
        """
        if method == OURS:
            try:
                search(
                    str(model_path(model)),
                    str(target),
                    str(feeds),
                    task(model),
                    self.max_drop,
                    self.search_time,
                )
            except RuntimeError as error:
                raise BuildError(str(error)) from error
            return
        python = self._executables(method) / "python"
        build_with(python, method, source, feeds, target, self.limit_s)

    def _executables(self, method: str) -> Path:
        try:
            return environment(*PEERS[method], self.environments)
        except RuntimeError as error:
            raise BuildError(str(error)) from error


def build_with(
    python: str | Path, method: str, source: Path, feeds: Path, target: Path, limit_s: float = 3600
) -> None:
    """Run a peer's method by the interpreter that has the peer.

    Raises:
        BuildError: it fails, says nothing for too long, or writes no model.
    """
    command = [str(python), "-I", str(_BUILDERS), method, str(source), str(feeds), str(target)]
    quiet = {**os.environ, "CI": "true"}  # so that no peer reports its use over the network
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=source.parent,
            env=quiet,
            timeout=limit_s,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"not done after {limit_s:.0f} s") from error
    if done.returncode < 0:
        raise BuildError(f"killed by signal {-done.returncode}")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise BuildError(said[-1].strip() if said else f"exit code {done.returncode}")
    if not target.is_file():
        raise BuildError("it wrote no model")


@cache
def _own_digest() -> str:
    return _digest(sorted((REPOSITORY / "onnxslim").rglob("*.py")))


def _digest(paths: Sequence[Path]) -> str:
    return sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]
