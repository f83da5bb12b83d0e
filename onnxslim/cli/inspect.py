"""``onnxslim inspect``: what a model is made of, or what a calibration holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxslim.cli import options
from onnxslim.cli.files import model_path
from onnxslim.cli.screen import Screen

if TYPE_CHECKING:
    from onnxslim.analysis.inspection import Inspection
    from onnxslim.calibration.store import Calibration
    from onnxslim.report.tables import Table

__all__ = ["command"]

_MANY = 5
_ROWS = 20
_ARCHIVE = b"PK"  # what an .npz file begins with, and no model


@click.command("inspect")
@click.argument("model")
@click.option(
    "--dim",
    "dims",
    multiple=True,
    callback=options.parse_dims,
    metavar="NAME=1",
    help="Size of a symbolic dimension when counting MACs; may be repeated.",
)
@options.common
def command(model: str, dims: dict[str, int], as_json: bool, verbose: int, quiet: bool) -> int:
    """Show inputs, outputs, operators, sizes and cost of MODEL without running it.

    MODEL may also be the CAL.npz of `onnxslim calibrate`: then its tensors, with -v all of them.
    """
    screen = Screen("inspect", as_json, verbose, quiet)
    if _is_archive(model):
        from onnxslim.calibration.store import Calibration

        calibration = Calibration.load(model)
        facts = {"input": model, **calibration.summary(), **_observed(calibration)}
        screen.tables(list(_ranges(calibration, verbose)), list(_remarks(calibration)), facts)
        return 0
    from dataclasses import replace

    from onnxslim.analysis.inspection import inspect
    from onnxslim.model.io import file_info

    with model_path(model) as path:
        found = inspect(path, dims=dims)
        file = replace(file_info(path), path=model)
    screen.tables(list(_tables(found)), list(_lines(found)), {"input": file, **found.to_dict()})
    return 0


def _tables(found: Inspection) -> Iterator[Table]:
    from onnxslim.report.tables import Table, number, size

    facts = {
        "producer": found.producer or "-",
        "IR version": str(found.ir_version),
        "opsets": ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items()),
        "nodes": number(found.nodes),
        "parameters": number(found.params),
        "bytes": size(found.bytes),
        "weights by type": ", ".join(f"{dtype} {size(n)}" for dtype, n in found.bytes_by_dtype.items())
        or "-",
        "quantization": found.quantization,
        "MACs at batch 1": number(found.macs) + (" and more" if found.unknown_macs else ""),
    }
    yield Table("Model", ("", ""), tuple(facts.items()), "ll")
    ports = [("input", port) for port in found.inputs] + [("output", port) for port in found.outputs]
    rows = tuple((kind, port.name, port.dtype or "?", _shape(port.shape)) for kind, port in ports)
    yield Table("Inputs and outputs", ("", "name", "type", "shape"), rows, "llll")
    yield Table("Operators", ("operator", "count"), tuple((op, number(n)) for op, n in found.ops.items()))
    if found.heaviest:
        heaviest = tuple((name, op, number(macs)) for name, op, macs in found.heaviest)
        yield Table("Most work", ("node", "operator", "MACs"), heaviest)


def _lines(found: Inspection) -> Iterator[str]:
    if found.unknown_ops:
        yield f"left alone, because nothing is known about them: {', '.join(found.unknown_ops)}"
    if found.unknown_macs:
        some = ", ".join(found.unknown_macs[:_MANY]) + (", ..." if len(found.unknown_macs) > _MANY else "")
        yield f"MACs of {len(found.unknown_macs)} nodes depend on open dimensions (--dim): {some}"
    for name, node in found.random_outputs.items():
        yield f"output {name} is random, because of {node}"
    if found.shared_weights:
        yield f"weights that several nodes read: {len(found.shared_weights)}"


def _shape(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return "?"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _is_archive(name: str) -> bool:
    path = Path(name)
    if name == "-" or not path.is_file():
        return path.suffix == ".npz"
    with path.open("rb") as file:
        return file.read(len(_ARCHIVE)) == _ARCHIVE


def _observed(calibration: Calibration) -> dict[str, Any]:
    tensors = {
        name: {
            "minmax": calibration.range(name),
            "percentile": calibration.range(name, "percentile"),
            "values": state.histogram.total,
            "channels": None if state.moments is None else len(state.moments.mean),
            "second_moments": state.products is not None,
        }
        for name, state in calibration.states.items()
    }
    return {"ranges": tensors, "skipped": dict(calibration.skipped), "notes": list(calibration.notes)}


def _ranges(calibration: Calibration, verbose: int) -> Iterator[Table]:
    from onnxslim.report.tables import Table, number

    facts = tuple((name.replace("_", " "), number(value)) for name, value in calibration.summary().items())
    yield Table("Calibration", ("", ""), facts, "ll")
    rows = []
    for name in calibration.states:
        (low, high), (inner, outer) = calibration.range(name), calibration.range(name, "percentile")
        stretch = (high - low) / (outer - inner) if outer > inner else 1.0
        rows.append((stretch, (name, f"{low:.4g}", f"{high:.4g}", f"{inner:.4g}", f"{outer:.4g}")))
    title = "Tensors"
    if not verbose and len(rows) > _ROWS:
        rows = sorted(rows, key=lambda row: -row[0])[:_ROWS]
        title = f"The {_ROWS} tensors that rare values stretch most"
    yield Table(title, ("", "min", "max", "99.99 % from", "to"), tuple(row for _, row in rows))


def _remarks(calibration: Calibration) -> Iterator[str]:
    if calibration.is_random:
        yield "made on random values"
    yield from calibration.notes
    names = list(calibration.skipped)
    for name in names[:_MANY]:
        yield f"not observed: {name}, {calibration.skipped[name]}"
    if len(names) > _MANY:
        yield f"and {len(names) - _MANY} others"
