"""``onnxslim doctor --measure``: what integer kernels cost on this machine, as a file for ``--target``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim.cli.screen import Screen

if TYPE_CHECKING:
    from onnxslim.measure.costs.measure import Measurement
    from onnxslim.report.text import Table
    from onnxslim.runtime.targets.target import Cost, Target

__all__ = ["measure"]


def measure(screen: Screen, target: str | None, output: str | None, time: str, seed: int, force: bool) -> int:
    """Measure the target's table here, show what changed, and write it where ``output`` says.

    Raises:
        OptionError: the target or the file cannot be used.
    """
    from onnxslim.cli.files import check_target, write_text
    from onnxslim.measure.costs.measure import measure_target
    from onnxslim.recipes.budget import parse_duration
    from onnxslim.runtime.environment import environment
    from onnxslim.runtime.targets.load import load_target
    from onnxslim.runtime.targets.target import DEFAULT_TARGET
    from onnxslim.runtime.targets.write import to_toml

    if output is not None:
        check_target(output, [target] if target else [], force=force)
    old = load_target(target or DEFAULT_TARGET)
    facts = environment()
    with screen.progress() as progress:
        found = measure_target(
            old,
            seconds=parse_duration(time),
            runtime=f"onnxruntime {facts.get('onnxruntime', '')}, CPUExecutionProvider",
            machine=f"{facts.get('cpu_model') or facts['machine']}, one thread",
            seed=seed,
            progress=progress,
        )
    if output is not None:
        write_text(Path(output), to_toml(found.target, _comment(found)))
    lines = [
        f"no trial of {finding.fusion.name} counted: {finding.missing}"
        for finding in found.findings
        if finding.missing
    ]
    lines.append(
        f"{len(found.errors)} times of generated graphs are explained to {found.spread:.1%} (median); a call "
        f"of a session costs {found.call_ns / 1e3:.1f} us"
    )
    if output is not None:
        lines.append(f"written to {output}: use it with --target {output}")
    screen.tables(list(_tables(old, found)), lines, {"output": output, **_body(found)})
    return 0


def _tables(old: Target, found: Measurement) -> Iterator[Table]:
    from onnxslim.report.text import Table

    before = {fusion.name: fusion for fusion in old.fusions}
    rows = []
    for finding in found.findings:
        if finding.trials:
            was, new, work = before[finding.fusion.name], finding.fusion, finding.work
            times = (was.float_cost, new.float_cost, was.integer_cost, new.integer_cost)
            rows.append(
                (
                    new.name,
                    new.kernel,
                    *(f"{cost.of(work) / 1e3:.2f}" for cost in times),
                    "{:.2f} to {:.2f}".format(*finding.ratio),
                    str(finding.trials),
                    f"{finding.error:.1%}",
                )
            )
    head = ("operator", "kernel", "float", "here", "integer", "here", "integer / float", "graphs", "fit")
    yield Table(
        "Kernels: us of an average node, as the table had it and here", head, tuple(rows), "llrrrrrrr"
    )
    yield Table(
        "Conversions, nanoseconds",
        ("", "cost before", "cost here"),
        tuple(
            (name.replace("_", " "), _cost(getattr(old, name)), _cost(getattr(found.target, name)))
            for name in ("quantize", "dequantize", "float_layout", "integer_layout")
        ),
        "lll",
    )


def _cost(cost: Cost) -> str:
    """The terms of a cost in one line."""
    from onnxslim.runtime.targets.write import terms

    words = [
        f"{amount:g} {name}" if name != "node" else f"{amount:g}" for name, amount in terms(cost).items()
    ]
    return " + ".join(words) or "0"


def _body(found: Measurement) -> Mapping[str, Any]:
    from onnxslim.runtime.targets.write import terms

    return {
        "runtime": found.target.runtime,
        "machine": found.target.machine,
        "call_ns": found.call_ns,
        "fit_error": found.spread,
        "fusions": [
            {
                "name": finding.fusion.name,
                "kernel": finding.fusion.kernel,
                "trials": finding.trials,
                "missing": finding.missing,
                "fit_error": finding.error if finding.trials else None,
                "ratio": list(finding.ratio) if finding.trials else None,
                "float_cost": terms(finding.fusion.float_cost),
                "integer_cost": terms(finding.fusion.integer_cost),
            }
            for finding in found.findings
        ],
        **{
            name: terms(getattr(found.target, name))
            for name in ("quantize", "dequantize", "float_layout", "integer_layout")
        },
    }


def _comment(found: Measurement) -> str:
    return (
        "What onnxruntime fuses into integer kernels here, and what the forms cost: nanoseconds, fitted by\n"
        "`onnxslim doctor --measure` to times of generated graphs. The terms are explained in\n"
        "onnxslim.runtime.targets.target.Cost.\n"
        f"{len(found.errors)} times are explained to {found.spread:.1%} (median); a call of a session costs "
        f"{found.call_ns / 1e3:.1f} us."
    )
