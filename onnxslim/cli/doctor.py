"""``onnxslim doctor``: whether this machine and this installation are in order."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import click

from onnxslim.cli import options
from onnxslim.cli.screen import Screen

__all__ = ["command"]

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@click.command("doctor")
@options.common
def command(as_json: bool, verbose: int, quiet: bool) -> int:
    """Show versions, execution providers and the processor's integer instructions, and what is wrong.

    The exit code is 0 when models can be run here, 5 when onnxruntime is missing, else 2.
    """
    screen = Screen("doctor", as_json, verbose, quiet)
    from onnxslim.report.report import environment
    from onnxslim.report.text import Table

    facts: dict[str, Any] = {**environment(), "cpu features": cpu_features()}
    problems = [line for line in (_name_clash(),) if line]
    code = _worker(facts, problems)
    rows = tuple((name, ", ".join(v) if isinstance(v, list) else str(v)) for name, v in facts.items())
    lines = [f"problem: {line}" for line in problems] or ["no problem found"]
    screen.tables([Table("This machine", ("", ""), rows, "ll")], lines, {**facts, "problems": problems}, code)
    return code


def cpu_features() -> list[str] | str:
    """The instructions that decide the speed of 8-bit integers, or why they are not known."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"not measured on {platform.system()}"
    flags = {
        flag for line in text.splitlines() if line[:5].lower() in ("flags", "featu") for flag in line.split()
    }
    return [feature for feature in _FEATURES if feature in flags]


def _name_clash() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        other = version("onnxslim")
    except PackageNotFoundError:
        return None
    return (
        f"the other project 'onnxslim' {other} is installed in the same folder as 'onnxslim-passes'; "
        "pip uninstall -y onnxslim && pip install --force-reinstall --no-deps onnxslim-passes"
    )


def _worker(facts: dict[str, Any], problems: list[str]) -> int:
    """Run a model in the worker process; adds to ``facts`` and ``problems``, returns the exit code."""
    from onnxslim.errors import DependencyError, OnnxSlimError

    try:
        import numpy as np
        import onnx.parser

        from onnxslim.runtime.client import open_worker
        from onnxslim.runtime.providers import available

        facts["providers"] = list(available())
        proto = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Add(x, x) }'
        )
        with open_worker() as worker:
            [y] = worker.load(proto).run({"x": np.array([1, 2], np.float32)})
        facts["worker process"] = (
            "works"
            if isinstance(y, np.ndarray) and y.tolist() == [2, 4]
            else f"computed {y!r} instead of [2, 4]"
        )
        return 0 if facts["worker process"] == "works" else 2
    except ImportError as error:
        problems.append(
            f"{error.name or error} cannot be imported: pip install --force-reinstall onnxslim-passes"
        )
        return DependencyError.exit_code
    except OnnxSlimError as error:
        problems.append(f"the worker process fails: {error.what}")
        return 2
