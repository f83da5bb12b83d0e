"""Virtual environments for programs that cannot share one: a peer installs under our import name."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

ONNXSIM = "onnxsim==0.8.1"
ONNXSLIM = "onnxslim==0.1.98"  # the other project of that name


def environment(name: str, requirements: Sequence[str], folder: Path) -> Path:
    """The folder of executables of an environment with ``requirements``, made unless it is there.

    Raises:
        RuntimeError: pip fails; the message is the last of its own.
    """
    home = folder / name
    made = home / "requirements.txt"  # written when everything is installed
    wanted = "\n".join(requirements)
    if not made.is_file() or made.read_text(encoding="utf-8") != wanted:
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *requirements], check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} does not install: {done.stderr.strip().splitlines()[-1]}")
        made.write_text(wanted, encoding="utf-8")
    return home / "bin"


def installed(executables: Path) -> tuple[str, ...]:
    """What is installed in an environment, each as ``package==version``."""
    command = [str(executables / "python"), "-m", "pip", "freeze", "--disable-pip-version-check"]
    return tuple(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[:-1])
