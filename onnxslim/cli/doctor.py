"""``onnxslim doctor``: whether this machine and this installation are in order, and what they can do."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from onnxslim.cli import options
from onnxslim.cli.screen import Screen
from onnxslim.errors import DependencyError, ResourceError

if TYPE_CHECKING:
    from onnxslim.report.text import Table

__all__ = ["command"]

_CPU = "CPUExecutionProvider"
_SECONDS = 20.0


@click.command("doctor")
@click.option("--measure", is_flag=True, help="Measure what integer kernels cost here, for --target.")
@click.option("-o", "--output", metavar="FILE.toml", help="Where to write the measured table.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--target", metavar="T", help="Whose fusions to measure; default cpu-x86-vnni.")
@click.option("--time", default="2min", show_default=True, metavar="T", help="How long to measure.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the generated graphs.")
@options.common
def command(
    measure: bool,
    output: str | None,
    force: bool,
    target: str | None,
    time: str,
    seed: int,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> int:
    """Show what this machine and its onnxruntime can do, and what is wrong.

    Small models are run on every installed execution provider, and those that are quantized are looked at for
    integer kernels.  The exit code is 0 when models can be run here, 5 when onnxruntime is missing, else 2.

    With --measure the costs of integer and float kernels are found instead: graphs of many sizes are
    generated, run in both forms and timed.  `onnxslim quantize --target FILE.toml` places integers by them.
    """
    screen = Screen("doctor", as_json, verbose, quiet)
    if measure:
        from onnxslim.cli.measuring import measure as measure_table

        return measure_table(screen, target, output, time, seed, force)
    if output is not None or target is not None:
        raise click.UsageError("--output and --target belong to --measure")
    from onnxslim.runtime.environment import environment

    facts = environment()
    problems = [line for line in (_name_clash(),) if line]
    with screen.progress() as progress:
        progress("trying onnxruntime")
        code, tried = _try_runtime(facts, problems)
    gaps = dict(_not_measured(facts, tried))
    body = {**facts, **tried, "not_measured": gaps, "problems": problems}
    lines = [f"problem: {line}" for line in problems] or ["no problem found"]
    screen.tables(list(_tables(facts, tried, gaps)), lines, body, code)
    return code


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


def _try_runtime(facts: Mapping[str, Any], problems: list[str]) -> tuple[int, dict[str, Any]]:
    """The exit code and what was found: ``worker_process``, ``providers``, ``integer_speed``,
    ``integer_kernels`` and ``exact_products``; adds to ``problems``."""
    from onnxslim.errors import OnnxSlimError

    try:
        if not _installed("onnxruntime"):  # which only the worker imports
            raise ImportError(name="onnxruntime")
        from onnxslim.runtime import selftest
        from onnxslim.runtime.client import open_worker
        from onnxslim.runtime.errors import RemoteError
        from onnxslim.runtime.providers import available
    except ImportError as error:
        what = error.name or error
        problems.append(f"{what} cannot be imported: pip install --force-reinstall onnxslim-passes")
        return DependencyError.exit_code, {}
    try:
        with open_worker(wall_s=_SECONDS):
            offered = available()
    except (OnnxSlimError, RemoteError) as error:
        problems.append(f"the worker process fails: {selftest.reason(error)}")
        return ResourceError.exit_code, {"worker_process": "fails"}
    trials = {name: selftest.try_provider(name) for name in offered}
    cpu = trials.get(_CPU)
    works = cpu is not None and cpu.works
    problems += [f"{name}: {trial.remark}" for name, trial in trials.items() if not trial.works]
    found: dict[str, Any] = {
        "worker_process": "works" if works else "fails",
        "providers": _providers(offered, trials),
        "integer_speed": _speed(facts),
        "integer_kernels": selftest.try_kernels() if works else (),
        "exact_products": selftest.exact_products() if works else None,
    }
    return (0 if works else ResourceError.exit_code), found


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _providers(offered: tuple[str, ...], trials: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> ``short``, ``installed``, ``works`` (None where not tried), ``remark`` or what gets it."""
    from onnxslim.runtime.providers import known

    found: dict[str, dict[str, Any]] = {
        name: {"short": "", "installed": True, "works": trial.works, "remark": trial.remark}
        for name, trial in trials.items()
    }
    for provider in known():
        if provider.name in found:
            found[provider.name]["short"] = provider.short
        else:
            absent = {"short": provider.short, "installed": False, "works": None, "remark": provider.remedy}
            found[provider.name] = absent
    return found


def _speed(facts: Mapping[str, Any]) -> str | None:
    from onnxslim.runtime.selftest import integer_speed

    features = facts["cpu_features"]
    return integer_speed(features) if isinstance(features, list) else None


def _tables(facts: Mapping[str, Any], tried: Mapping[str, Any], gaps: Mapping[str, str]) -> Iterator[Table]:
    from onnxslim.report.text import Table

    rows = [(name.replace("_", " ").removesuffix(" bytes"), _shown(name, facts[name])) for name in facts]
    if "worker_process" in tried:
        rows.append(("worker process", tried["worker_process"]))
    yield Table("This machine", ("", ""), tuple(rows), "ll")
    if "providers" in tried:
        states = tuple(
            (name, entry["short"] or "-", _state(entry), entry["remark"])
            for name, entry in tried["providers"].items()
        )
        yield Table("Execution providers", ("provider", "name here", "state", ""), states, "llll")
    integer = [("the processor", tried["integer_speed"])] if tried.get("integer_speed") else []
    if tried.get("exact_products") is not None:
        integer.append(("the largest sums", _exactness(tried["exact_products"])))
    integer += [
        (trial.pattern, trial.kernel or f"stays in float: {trial.remark}")
        for trial in tried.get("integer_kernels", ())
    ]
    if integer:
        yield Table("Integer arithmetic", ("", "found"), tuple(integer), "ll")
    yield Table("Not measured here", ("", "why"), tuple(gaps.items()), "ll")


def _shown(name: str, value: object) -> str:
    from onnxslim.report.text import size

    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _state(entry: Mapping[str, Any]) -> str:
    if not entry["installed"]:
        return "not installed"
    return "works" if entry["works"] else "fails"


def _exactness(exact: bool) -> str:
    return (
        "exact"
        if exact
        else "saturate at 16 bits: keep weights in 7 bits, or measure what it costs (onnxslim quantize does)"
    )


def _not_measured(facts: Mapping[str, Any], tried: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What could not be established, and why."""
    if not tried.get("integer_kernels"):
        yield "integer kernels", "onnxruntime could not be tried"
    if not isinstance(facts["cpu_features"], list):
        yield "the processor's instructions", str(facts["cpu_features"])
    providers = tried.get("providers", {})
    if not any(p["works"] and not p["remark"] for name, p in providers.items() if name != _CPU):
        yield "accelerators", "no execution provider but the CPU's is installed and computes here"
    yield "the speed of any kernel", "only its presence was looked at; onnxslim bench measures models"
    cores = facts.get("cores_available", facts.get("cores"))
    yield "several threads", f"everything ran on one; {cores} processors are available to this process"
    if "governor" not in facts:
        yield "the frequency governor", "the system does not tell, so the clock may change during a benchmark"
    if "cpu_limit" not in facts:
        yield "a limit of processor time", "no control group sets one, or the system does not show it"
    if "memory_available_bytes" not in facts:
        yield "available memory", "the system does not tell"
    if "virtual machine" in facts.get("virtualization", ""):
        yield "the load of the host", "this is a virtual machine, and its neighbours cannot be seen"
    yield "cycles and cache misses", "no hardware counters are read; benchmarks rest on clocks alone"
